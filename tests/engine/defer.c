/*
 * An OpenSSL engine for tests: it really defers each ECDSA signature to another thread, and pauses
 * the job that asked for it meanwhile, as hardware would. For OpenSSL's dynamic engine loader.
 */
#define OPENSSL_SUPPRESS_DEPRECATED

#include <openssl/async.h>
#include <openssl/ec.h>
#include <openssl/engine.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { WORK_US = 2000 };

typedef int sign_function(int type, const unsigned char *digest, int digest_length,
			  unsigned char *signature, unsigned int *signature_length,
			  const BIGNUM *kinv, const BIGNUM *r, EC_KEY *key);

struct work {
	int type, digest_length, result, done, fd;
	const unsigned char *digest;
	unsigned char *signature;
	unsigned int *signature_length;
	const BIGNUM *kinv, *r;
	EC_KEY *key;
};

static sign_function *sign_now;

static void *do_work(void *arg)
{
	struct work *work = arg;
	int fd = work->fd;

	usleep(WORK_US);
	work->result = sign_now(work->type, work->digest, work->digest_length, work->signature,
				work->signature_length, work->kinv, work->r, work->key);
	__atomic_store_n(&work->done, 1, __ATOMIC_RELEASE);
	eventfd_write(fd, 1);
	return NULL;
}

static void close_fd(ASYNC_WAIT_CTX *context, const void *key, OSSL_ASYNC_FD fd, void *data)
{
	close(fd);
}

/* The descriptor of this connection's waits, the same for all of them. */
static int wait_fd(ASYNC_WAIT_CTX *context)
{
	OSSL_ASYNC_FD fd;
	void *data;

	if (ASYNC_WAIT_CTX_get_fd(context, &sign_now, &fd, &data))
		return fd;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd >= 0 && !ASYNC_WAIT_CTX_set_wait_fd(context, &sign_now, fd, NULL, close_fd)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int sign(int type, const unsigned char *digest, int digest_length, unsigned char *signature,
		unsigned int *signature_length, const BIGNUM *kinv, const BIGNUM *r, EC_KEY *key)
{
	ASYNC_JOB *job = ASYNC_get_current_job();
	struct work work = {.type = type,
			    .digest_length = digest_length,
			    .digest = digest,
			    .signature = signature,
			    .signature_length = signature_length,
			    .kinv = kinv,
			    .r = r,
			    .key = key};
	pthread_t thread;
	eventfd_t count;

	work.fd = job ? wait_fd(ASYNC_get_wait_ctx(job)) : -1;
	if (work.fd < 0 || pthread_create(&thread, NULL, do_work, &work))
		return sign_now(type, digest, digest_length, signature, signature_length, kinv, r,
				key);
	while (!__atomic_load_n(&work.done, __ATOMIC_ACQUIRE))
		ASYNC_pause_job();
	pthread_join(thread, NULL);
	eventfd_read(work.fd, &count);
	return work.result;
}

static int bind(ENGINE *engine, const char *id)
{
	EC_KEY_METHOD *method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
	int (*setup)(EC_KEY * key, BN_CTX * context, BIGNUM * *kinv, BIGNUM * *r);
	ECDSA_SIG *(*sign_sig)(const unsigned char *digest, int length, const BIGNUM *kinv,
			       const BIGNUM *r, EC_KEY *key);

	if (!method)
		return 0;
	EC_KEY_METHOD_get_sign(method, &sign_now, &setup, &sign_sig);
	EC_KEY_METHOD_set_sign(method, sign, setup, sign_sig);
	return ENGINE_set_id(engine, "defer") && ENGINE_set_name(engine, "defers signatures") &&
	       ENGINE_set_EC(engine, method);
}

IMPLEMENT_DYNAMIC_CHECK_FN()
IMPLEMENT_DYNAMIC_BIND_FN(bind)
