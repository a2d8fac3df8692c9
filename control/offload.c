// engines are deprecated in favour of providers, but are what is packaged: only this file uses them
#define OPENSSL_SUPPRESS_DEPRECATED

#include "offload.h"

#include <errno.h>
#include <openssl/engine.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <stdio.h>
#include <string.h>

#include "log.h"

static bool pauses, engine_loaded;

/* By its name, or by the path of its file. */
static ENGINE *find_engine(const char *name)
{
	ENGINE *engine;

	ENGINE_load_builtin_engines();
	if (!strchr(name, '/'))
		return ENGINE_by_id(name);
	engine = ENGINE_by_id("dynamic");
	if (engine && ENGINE_ctrl_cmd_string(engine, "SO_PATH", name, 0) &&
	    ENGINE_ctrl_cmd_string(engine, "LOAD", NULL, 0))
		return engine;
	ENGINE_free(engine);
	return NULL;
}

static bool load_engine(const char *name)
{
	ENGINE *engine = find_engine(name);
	// kept until the process ends: keys are its
	bool loaded =
		engine && ENGINE_init(engine) && ENGINE_set_default(engine, ENGINE_METHOD_ALL);

	ENGINE_free(engine);
	engine_loaded |= loaded;
	return loaded;
}

static bool load_provider(const char *name)
{
	char preferred[CONFIG_NAME_MAX + 16];

	snprintf(preferred, sizeof(preferred), "?provider=%s", name);
	// whoever asks for another one, has to ask for this as well
	return OSSL_PROVIDER_load(NULL, "default") && OSSL_PROVIDER_load(NULL, name) &&
	       EVP_set_default_properties(NULL, preferred);
}

static int load(const char *kind, const char *name, bool (*loader)(const char *name),
		const struct config_crypto *config, char *error)
{
	const char *reason;

	if (!*name)
		return 0;
	ERR_clear_error();
	if (loader(name)) {
		pauses |= config->async;
		log_info("crypto offload", "kind=%s name=%s", kind, name);
		return 0;
	}
	reason = ERR_reason_error_string(ERR_peek_error());
	if (!reason)
		reason = "unknown reason";
	ERR_clear_error();
	if (config->required) {
		snprintf(error, CONFIG_ERROR_MAX, "crypto.%s: %s can't be loaded: %s", kind, name,
			 reason);
		return -ENOENT;
	}
	log_warning("no crypto offload", "kind=%s name=%s reason=%s advice=%s", kind, name, reason,
		    "OpenSSL's own code is used");
	return 0;
}

int offload_load(const struct config_crypto *config, char *error)
{
	int result = load("engine", config->engine, load_engine, config, error);

	if (!result)
		result = load("provider", config->provider, load_provider, config, error);
	return result;
}

bool offload_pauses(void)
{
	return pauses;
}

bool offload_is_engine(void)
{
	return engine_loaded;
}
