// for DPDK 22.11, where the interface of sessions was new
#define ALLOW_EXPERIMENTAL_API

#include "ciphers.h"

#include <errno.h>
#include <rte_bus_vdev.h>
#include <rte_cryptodev.h>
#include <rte_dev.h>
#include <rte_mbuf.h>
#include <stdio.h>
#include <urcu-qsbr.h>

#include "node.h"

enum {
	BURST = 64, // records that a worker gives the device at once
	DESCRIPTORS = 256,
	QUEUES_MAX = 64,
	IV_ROOM = 16,
	IV_OFFSET = sizeof(struct rte_crypto_op) + sizeof(struct rte_crypto_sym_op),
	SESSION_MEMORY = 2560, // of a device's session: the largest, ipsec-mb's, has 2,048
};

struct key {
	struct aead_key base;
	void *sessions[2]; // to open, to seal
};

enum { OPEN, SEAL };

struct worker {
	uint16_t queue;
	struct rte_crypto_op *ops[BURST];
	struct rte_mbuf *buffers[BURST]; // describe records, have no memory of their own
};

static struct {
	uint8_t device;
	char vdev[64]; // "": a card
	uint16_t queue_count;
	bool taken[QUEUES_MAX]; // by workers
	struct rte_mempool *sessions;
	struct rte_mempool *ops;
	struct rte_mempool *buffers;
} cryptodev;

static bool can(enum rte_crypto_aead_algorithm algorithm)
{
	const struct rte_cryptodev_sym_capability_idx index = {
		.type = RTE_CRYPTO_SYM_XFORM_AEAD,
		.algo.aead = algorithm,
	};
	const struct rte_cryptodev_symmetric_capability *capability =
		rte_cryptodev_sym_capability_get(cryptodev.device, &index);

	return capability &&
	       rte_cryptodev_sym_capability_check_aead(capability, WIRE_KEY_SIZE, WIRE_TAG_SIZE,
						       WIRE_RECORD_HEADER, WIRE_IV_SIZE) == 0;
}

// A card may show several devices; the one for symmetric ciphers is wanted.
static int device_find(const char *name, struct rte_cryptodev_info *info)
{
	for (unsigned int i = 0; i < RTE_CRYPTO_MAX_DEVS; i++) {
		if (!rte_cryptodev_is_valid_dev((uint8_t)i))
			continue;
		rte_cryptodev_info_get((uint8_t)i, info);
		if (strcmp(rte_dev_name(info->device), name) == 0 &&
		    (info->feature_flags & RTE_CRYPTODEV_FF_SYMMETRIC_CRYPTO))
			return (int)i;
	}
	return -ENODEV;
}

static int pools_make(unsigned int queues, unsigned int keys)
{
	uint32_t n = queues * BURST;

	cryptodev.sessions = rte_cryptodev_sym_session_pool_create(
		"cryptodev-sessions", 2 * keys,
		rte_cryptodev_sym_get_private_session_size(cryptodev.device), 0, 0, SOCKET_ID_ANY);
	cryptodev.ops = rte_crypto_op_pool_create("cryptodev-ops", RTE_CRYPTO_OP_TYPE_SYMMETRIC, n,
						  0, IV_ROOM, SOCKET_ID_ANY);
	cryptodev.buffers = rte_pktmbuf_pool_create("cryptodev-buffers", n, 0, 0, 0, SOCKET_ID_ANY);
	return cryptodev.sessions && cryptodev.ops && cryptodev.buffers ? 0 : -ENOMEM;
}

static int device_begin(unsigned int queues, const struct rte_cryptodev_info *info)
{
	struct rte_cryptodev_config configuration = {
		.socket_id = rte_cryptodev_socket_id(cryptodev.device),
		.nb_queue_pairs = (uint16_t)queues,
		.ff_disable = RTE_CRYPTODEV_FF_ASYMMETRIC_CRYPTO | RTE_CRYPTODEV_FF_SECURITY,
	};
	const struct rte_cryptodev_qp_conf queue = {
		.nb_descriptors = DESCRIPTORS,
		.mp_session = cryptodev.sessions,
	};
	int r;

	configuration.ff_disable &= info->feature_flags;
	r = rte_cryptodev_configure(cryptodev.device, &configuration);
	for (uint16_t i = 0; i < queues && r == 0; i++)
		r = rte_cryptodev_queue_pair_setup(cryptodev.device, i, &queue, SOCKET_ID_ANY);
	return r ? r : rte_cryptodev_start(cryptodev.device);
}

size_t cryptodev_memory(unsigned int keys)
{
	return 2 * (size_t)keys * SESSION_MEMORY + (4 << 20);
}

bool cryptodev_is_pci(const char *device)
{
	return strchr(device, ':');
}

int cryptodev_start(const char *device, unsigned int queues, unsigned int keys, char *error)
{
	struct rte_cryptodev_info info;
	int r = 0;

	if (queues > QUEUES_MAX)
		return -EINVAL;
	if (!cryptodev_is_pci(device)) {
		r = rte_vdev_init(device, NULL);
		if (r) {
			snprintf(error, CIPHERS_ERROR_MAX, "DPDK has no crypto device %s: %s",
				 device, strerror(-r));
			return r;
		}
		snprintf(cryptodev.vdev, sizeof(cryptodev.vdev), "%s", device);
	}
	r = device_find(device, &info);
	if (r < 0) {
		snprintf(error, CIPHERS_ERROR_MAX,
			 "there is no crypto device %s; a card must be bound to vfio-pci", device);
		goto out;
	}
	cryptodev.device = (uint8_t)r;
	r = -ENOTSUP;
	if (!can(RTE_CRYPTO_AEAD_AES_GCM)) {
		snprintf(error, CIPHERS_ERROR_MAX, "%s can't do AES-256-GCM", device);
		goto out;
	}
	if (info.max_nb_queue_pairs < queues) {
		snprintf(error, CIPHERS_ERROR_MAX, "%s has %u queues, and %u are wanted", device,
			 info.max_nb_queue_pairs, queues);
		goto out;
	}
	cryptodev.queue_count = (uint16_t)queues;
	r = pools_make(queues, keys);
	if (r == 0)
		r = device_begin(queues, &info);
	if (r)
		snprintf(error, CIPHERS_ERROR_MAX, "crypto device %s doesn't start: %s", device,
			 strerror(-r));
out:
	if (r)
		cryptodev_stop();
	return r;
}

void cryptodev_stop(void)
{
	// keys that are about to be freed are still the device's
	rcu_barrier();
	if (cryptodev.queue_count) {
		rte_cryptodev_stop(cryptodev.device);
		rte_cryptodev_close(cryptodev.device);
	}
	if (*cryptodev.vdev)
		rte_vdev_uninit(cryptodev.vdev);
	rte_mempool_free(cryptodev.buffers);
	rte_mempool_free(cryptodev.ops);
	rte_mempool_free(cryptodev.sessions);
	memset(&cryptodev, 0, sizeof(cryptodev));
}

static void *session_new(enum wire_aead aead, const uint8_t *secret, int direction)
{
	struct rte_crypto_sym_xform transform = {
		.type = RTE_CRYPTO_SYM_XFORM_AEAD,
		.aead = {
			.op = direction == SEAL ? RTE_CRYPTO_AEAD_OP_ENCRYPT
						: RTE_CRYPTO_AEAD_OP_DECRYPT,
			.algo = aead == WIRE_AES_256_GCM ? RTE_CRYPTO_AEAD_AES_GCM
							 : RTE_CRYPTO_AEAD_CHACHA20_POLY1305,
			.key = {.data = secret, .length = WIRE_KEY_SIZE},
			.iv = {.offset = IV_OFFSET, .length = WIRE_IV_SIZE},
			.digest_length = WIRE_TAG_SIZE,
			.aad_length = WIRE_RECORD_HEADER,
		}};

	return rte_cryptodev_sym_session_create(cryptodev.device, &transform, cryptodev.sessions);
}

static size_t key_size(void)
{
	return sizeof(struct key);
}

static void key_fini(struct aead_key *key)
{
	struct key *own = (struct key *)key;

	// which wipes them; the device may have ended before
	for (int i = 0; i < 2; i++) {
		if (own->sessions[i] && cryptodev.queue_count)
			rte_cryptodev_sym_session_free(cryptodev.device, own->sessions[i]);
	}
	explicit_bzero(own, sizeof(*own));
}

static bool key_init(struct aead_key *base, enum wire_aead aead,
		     const uint8_t secret[WIRE_EXPORT_SIZE])
{
	struct key *key = (struct key *)base;

	if (!cryptodev.queue_count ||
	    (aead != WIRE_AES_256_GCM && aead != WIRE_CHACHA20_POLY1305) ||
	    (aead == WIRE_CHACHA20_POLY1305 && !can(RTE_CRYPTO_AEAD_CHACHA20_POLY1305)))
		return false;
	key->base.aead = aead;
	memcpy(key->base.iv, secret + WIRE_KEY_SIZE, WIRE_IV_SIZE);
	for (int i = 0; i < 2; i++)
		key->sessions[i] = session_new(aead, secret, i);
	if (key->sessions[0] && key->sessions[1])
		return true;
	key_fini(base);
	return false;
}

static void worker_free(void *arg)
{
	struct worker *worker = arg;

	for (int i = 0; i < BURST; i++) {
		if (worker->ops[i])
			rte_crypto_op_free(worker->ops[i]);
		if (worker->buffers[i])
			rte_mempool_put(cryptodev.buffers, worker->buffers[i]);
	}
	cryptodev.taken[worker->queue] = false;
	node_free(worker);
}

static void *worker_new(int node)
{
	struct worker *worker;
	uint16_t queue = 0;

	while (queue < cryptodev.queue_count && cryptodev.taken[queue])
		queue++;
	if (queue == cryptodev.queue_count)
		return NULL;
	worker = node_alloc(node, 64, sizeof(*worker));
	if (!worker)
		return NULL;
	worker->queue = queue;
	cryptodev.taken[queue] = true;
	if (!rte_crypto_op_bulk_alloc(cryptodev.ops, RTE_CRYPTO_OP_TYPE_SYMMETRIC, worker->ops,
				      BURST) ||
	    rte_mempool_get_bulk(cryptodev.buffers, (void **)worker->buffers, BURST)) {
		worker_free(worker);
		return NULL;
	}
	for (int i = 0; i < BURST; i++) {
		rte_pktmbuf_reset(worker->buffers[i]);
		worker->ops[i]->sym->m_src = worker->buffers[i];
	}
	return worker;
}

// addresses for the device are our own: EAL runs with --iova-mode va
static rte_iova_t iova(const void *p)
{
	return (rte_iova_t)(uintptr_t)p;
}

static void describe(struct rte_crypto_op *op, const struct aead_job *job, int direction)
{
	const struct key *key = (const struct key *)job->key;
	uint8_t *tag = job->record + job->length - WIRE_TAG_SIZE;
	struct rte_crypto_sym_op *sym = op->sym;
	struct rte_mbuf *buffer = sym->m_src;

	buffer->buf_addr = job->record;
	rte_mbuf_iova_set(buffer, iova(job->record));
	buffer->buf_len = buffer->data_len = job->length;
	buffer->pkt_len = job->length;
	buffer->data_off = 0;
	op->status = RTE_CRYPTO_OP_STATUS_NOT_PROCESSED;
	op->sess_type = RTE_CRYPTO_OP_WITH_SESSION;
	sym->session = key->sessions[direction];
	sym->aead.data.offset = WIRE_RECORD_HEADER;
	sym->aead.data.length = job->length - WIRE_RECORD_OVERHEAD;
	sym->aead.digest.data = tag;
	sym->aead.digest.phys_addr = iova(tag);
	sym->aead.aad.data = job->record;
	sym->aead.aad.phys_addr = iova(job->record);
	wire_nonce(rte_crypto_op_ctod_offset(op, uint8_t *, IV_OFFSET), key->base.iv, job->record);
}

// Has the device do them all, and sets `ok`.
static void run(struct worker *worker, struct aead_job *jobs, unsigned int n, int direction)
{
	struct rte_crypto_op *back[BURST];
	unsigned int given = 0, done = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (direction == OPEN)
			cipher_fetch(&jobs[i]);
		describe(worker->ops[i], &jobs[i], direction);
	}
	while (done < n) {
		if (given < n)
			given += rte_cryptodev_enqueue_burst(cryptodev.device, worker->queue,
							     &worker->ops[given],
							     (uint16_t)(n - given));
		done += rte_cryptodev_dequeue_burst(cryptodev.device, worker->queue, back, BURST);
	}
	for (unsigned int i = 0; i < n; i++)
		jobs[i].ok = worker->ops[i]->status == RTE_CRYPTO_OP_STATUS_SUCCESS;
}

static void open_burst(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i += BURST)
		run(worker, &jobs[i], RTE_MIN(n - i, (unsigned int)BURST), OPEN);
}

static void seal_burst(void *worker, struct aead_job *jobs, unsigned int n)
{
	for (unsigned int i = 0; i < n; i += BURST)
		run(worker, &jobs[i], RTE_MIN(n - i, (unsigned int)BURST), SEAL);
	for (unsigned int i = 0; i < n; i++) {
		// whatever the device may do, plaintext never leaves
		if (!jobs[i].ok)
			memset(jobs[i].record + WIRE_RECORD_HEADER, 0,
			       jobs[i].length - WIRE_RECORD_HEADER);
	}
}

// Not every device can read in one place and write in another.
static void seal_texts(void *worker, struct aead_job *jobs, const uint8_t *const *texts,
		       unsigned int n)
{
	aead_place_texts(jobs, texts, n);
	seal_burst(worker, jobs, n);
}

const struct aead_ops aead_cryptodev = {
	.name = "cryptodev",
	.key_size = key_size,
	.key_init = key_init,
	.key_fini = key_fini,
	.worker_new = worker_new,
	.worker_free = worker_free,
	.open = open_burst,
	.seal = seal_burst,
	.seal_texts = seal_texts,
};
