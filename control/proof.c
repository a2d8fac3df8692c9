#include "proof.h"

#include <errno.h>
#include <time.h>

static const uint8_t version[4] = "VP1";

static int seconds(int64_t *to, const ASN1_TIME *time)
{
	struct tm tm;

	if (ASN1_TIME_to_tm(time, &tm) != 1)
		return -EINVAL;
	*to = timegm(&tm);
	return 0;
}

int proof_read(struct proof *proof, const X509 *certificate, int64_t now)
{
	proof->proved = now;
	if (seconds(&proof->not_before, X509_get0_notBefore(certificate)) ||
	    seconds(&proof->not_after, X509_get0_notAfter(certificate)))
		return -EINVAL;
	return 0;
}

size_t proof_pack(uint8_t to[PROOF_MAX], const struct proof *proof)
{
	size_t length = strlen(proof->peer.name);

	memcpy(to, version, sizeof(version));
	wire_put64(to + 4, (uint64_t)proof->proved);
	wire_put64(to + 12, (uint64_t)proof->not_before);
	wire_put64(to + 20, (uint64_t)proof->not_after);
	memcpy(to + 28, &proof->peer.id, WIRE_ID_SIZE);
	memcpy(to + 44, &proof->peer.certificate, WIRE_ID_SIZE);
	memcpy(to + PROOF_FIXED, proof->peer.name, length);
	return PROOF_FIXED + length;
}

int proof_unpack(struct proof *proof, const uint8_t *from, size_t length)
{
	if (length <= PROOF_FIXED || length > PROOF_MAX ||
	    memcmp(from, version, sizeof(version)) != 0)
		return -EINVAL;
	memset(proof, 0, sizeof(*proof));
	proof->proved = (int64_t)wire_get64(from + 4);
	proof->not_before = (int64_t)wire_get64(from + 12);
	proof->not_after = (int64_t)wire_get64(from + 20);
	memcpy(&proof->peer.id, from + 28, WIRE_ID_SIZE);
	memcpy(&proof->peer.certificate, from + 44, WIRE_ID_SIZE);
	return identity_name(&proof->peer, (const char *)from + PROOF_FIXED, length - PROOF_FIXED);
}

bool proof_holds(const struct proof *proof, int64_t now, int64_t age)
{
	return proof->proved <= now && proof->proved > now - age && proof->not_before <= now &&
	       proof->not_after >= now;
}
