/*
 * The configuration: one YAML file. Every setting has its line in a table in config.c.
 */
#ifndef VIADUCT_CONFIG_H
#define VIADUCT_CONFIG_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "address.h"

enum {
	CONFIG_PATH_MAX = 1024, // with the NUL
	CONFIG_NAME_MAX = 256,  // with the NUL
	CONFIG_LISTEN_MAX = 8,
	CONFIG_RELAYS_MAX = 4,
	CONFIG_RELAY_TEXT = 200, // with the NUL
	CONFIG_ADDRESSES_MAX = 8,
	CONFIG_CIPHERS_MAX = 2,
	CONFIG_WORKERS_MAX = 8,
	CONFIG_CLUSTER_MAX = 64, // bytes of a name in the policy, with the NUL
	CONFIG_RULES_MAX = 64,
	CONFIG_RULE_MAX = 32,     // clusters in one rule
	CONFIG_CLUSTERS_MAX = 64, // with rates of their own
	CONFIG_LEVELS_MAX = 3,    // of trust, beside the best
	CONFIG_PINS_MAX = 64,     // more are for a file
	CONFIG_DEVICE_MAX = 64,
	CONFIG_GROUPS_MAX = 65536,
	CONFIG_GROUP_NAME = 65,          // bytes of a topic's name, with the NUL
	CONFIG_TOPICS_MAX = 64,          // configured ones
	CONFIG_TOPIC_CLUSTERS = 8,       // of each
	CONFIG_SERVICES_MAX = 64,        // that have settings of their own
	CONFIG_SERVICE_CLUSTERS_MAX = 8, // that may register for one of them
	CONFIG_SERVICE_NAME = 65,        // with the NUL
	CONFIG_SERVICE_MS = 600000,      // the longest of their times
	CONFIG_ERROR_MAX = CONFIG_PATH_MAX + 512,
};

#define CONFIG_FOLDER "/run/viaduct" // made if need be, where the admin socket is by default

enum config_aead {
	CONFIG_AEAD_AUTO,
	CONFIG_AEAD_IPSEC_MB,
	CONFIG_AEAD_OPENSSL,
	CONFIG_AEAD_CRYPTODEV,
};

enum config_polling {
	CONFIG_ADAPTIVE,
	CONFIG_BUSY,
};

/* Checked, and complete: what the file leaves out has its default. Enums are kept as int. */
struct config {
	struct config_tls {
		char certificate[CONFIG_PATH_MAX];
		char key[CONFIG_PATH_MAX];
		char ca[CONFIG_PATH_MAX];
		char tickets[CONFIG_PATH_MAX]; // "": their keys are kept nowhere
		int ticket_rotation;           // s
	} tls;
	struct config_crypto {
		char engine[CONFIG_NAME_MAX];   // "": none; a name, or a path
		char provider[CONFIG_NAME_MAX]; // "": none
		int async;                      // whether they may pause handshakes
		int required;                   // whether it is an error if they are missing
		int threads;                    // for handshakes, where nothing pauses them
	} crypto;
	struct config_control {
		char listen[CONFIG_LISTEN_MAX][ADDRESS_TEXT]; // IP:port
		uint32_t listen_count;
		char relays[CONFIG_RELAYS_MAX][CONFIG_RELAY_TEXT]; // others, host:port
		uint32_t relays_count;
		char admin[CONFIG_PATH_MAX]; // UNIX socket
		int core;                    // -1: chosen by placement
	} control;
	struct config_data {
		char interface[IFNAMSIZ];
		int driver; // enum dataplane_driver
		int port;
		int workers;
		int cores[CONFIG_WORKERS_MAX];
		uint32_t cores_count; // 0: chosen by placement
		int polling;          // enum config_polling
		int mtu;
		int aead;                            // enum config_aead
		char aead_device[CONFIG_DEVICE_MAX]; // for cryptodev: PCI address or vdev
		char address[CONFIG_ADDRESSES_MAX][ADDRESS_TEXT]; // IPs to tell peers
		uint32_t address_count; // 0: where the peer's TLS connection came to
	} data;
	struct config_session {
		int keepalive; // s
		int expiry;    // s
		int rekey;     // s
		int lanes_up;
		int key_records;
		int max;
		int groups_max;                  // services and topics
		int ciphers[CONFIG_CIPHERS_MAX]; // enum wire_aead
		uint32_t ciphers_count;
	} session;
	struct config_limits {
		int tls_timeout;   // s
		int hello_timeout; // s
		int close_timeout; // s
		int hello_size;    // bytes
		int handshakes;
		int handshakes_per_second;
		int source_handshakes;
		int source_handshakes_per_second;
		int member_handshakes;
		int member_handshakes_per_second;
		int busy_per_second;
		int waiting;
		int waiting_timeout; // s
		int takeovers_per_minute;
		int watchers;
		int shed;          // under overload
		int control_share; // percent of a worker, for class control
		struct config_rate {
			int messages_per_second;   // 0: no limit
			int bytes_per_second;      // 0: no limit
			int burst;                 // ms worth of them; 0: the default
		} peer, levels[CONFIG_LEVELS_MAX]; // the latter from level 1 on
		uint32_t levels_count;
		struct config_cluster_rate {
			char name[CONFIG_CLUSTER_MAX];
			struct config_rate rate;
		} clusters[CONFIG_CLUSTERS_MAX];
		uint32_t clusters_count;
	} limits;
	struct config_trust {
		char crl[CONFIG_PATH_MAX];                    // "": none
		char revoked[CONFIG_PATH_MAX];                // "": kept nowhere
		char pins_file[CONFIG_PATH_MAX];              // "": none
		char pins[CONFIG_PINS_MAX][WIRE_ID_TEXT + 1]; // ids
		uint32_t pins_count;
		char scores[CONFIG_PATH_MAX]; // "": kept nowhere
		int score_half_life;          // s
		int cut_seconds;
		int cut_seconds_max;
		int bad_records_per_second; // of a source, before it is blocked; 0: it never is
		int block_seconds;
		int block_seconds_max;
	} trust;
	struct config_policy {
		struct config_rule {
			char from[CONFIG_CLUSTER_MAX];
			char to[CONFIG_RULE_MAX][CONFIG_CLUSTER_MAX];
			uint32_t to_count;
		} rules[CONFIG_RULES_MAX];
		uint32_t rules_count;
	} policy;
	struct config_topics {
		int max;            // topics
		int members;        // of each
		int per_peer;       // that a peer may join
		int rate;           // publications a second to each; 0: any number
		int publisher_rate; // of each peer; 0: any number
		int cluster_joins;  // whether peers may join for their cluster
		struct config_topic {
			char name[CONFIG_GROUP_NAME];
			char clusters[CONFIG_TOPIC_CLUSTERS][CONFIG_CLUSTER_MAX];
			uint32_t clusters_count;
		} configured[CONFIG_TOPICS_MAX];
		uint32_t configured_count;
	} topics;
	struct config_services {
		int requests;      // under way, of all peers
		int peer_requests; // of one
		int peer_services; // that one may register for
		// of services that don't say otherwise
		int policy;     // enum service_policy, plus 1
		int slow_start; // ms
		int silent;     // ms
		int timeout;    // ms
		int eject;      // failures in a row
		struct config_service {
			char name[CONFIG_SERVICE_NAME];
			char clusters[CONFIG_SERVICE_CLUSTERS_MAX][CONFIG_CLUSTER_MAX];
			uint32_t clusters_count; // 0: whoever is first
			// 0: as above
			int policy;
			int second; // 0: the same
			int share;  // of the second one, percent
			int slow_start;
			int silent;
			int timeout;
			int eject;
		} names[CONFIG_SERVICES_MAX];
		uint32_t names_count;
	} services;
	struct config_drain {
		int seconds;
	} drain;
	struct config_log {
		int level; // enum log_level
	} log;
};

/*
 * Reads a configuration's text. Pure. Returns 0, or -EINVAL with "LINE:COLUMN: what is wrong" in
 * `error` (CONFIG_ERROR_MAX bytes), or -ENOMEM with a text as well.
 */
int config_parse(const uint8_t *text, size_t length, struct config *config, char *error);

/*
 * Calls `each` for every setting, by its "section.key", that isn't the same in both, with its
 * values as text. `live`: it can be changed in a relay that runs.
 */
void config_compare(const struct config *from, const struct config *to,
		    void (*each)(void *arg, const char *setting, const char *before,
				 const char *after, bool live),
		    void *arg);

/*
 * Reads a file, with paths in it relative to its folder. Returns 0, or a negative errno with
 * "FILE:LINE:COLUMN: …" or "FILE: …" in `error` (CONFIG_ERROR_MAX bytes).
 */
int config_load(const char *file, struct config *config, char *error);

#endif
