#include "rates.h"

enum {
	BATCH_MESSAGES = 32,
	BATCH_BYTES = 32768,
	BATCHES = 8, // in a burst, at least: what other workers can't have is small
	TRIES = 8,   // more than there are workers
	MS_PER_S = 1000,
};

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Takes `n` tokens out of a bucket. False: there aren't as many. */
static bool take(uint64_t *taken, uint64_t per_s, uint64_t burst, uint64_t n, uint64_t now_ms)
{
	uint64_t ever = burst + now_ms / MS_PER_S * per_s + now_ms % MS_PER_S * per_s / MS_PER_S;
	uint64_t was = __atomic_load_n(taken, __ATOMIC_RELAXED);

	for (int i = 0; i < TRIES; i++) {
		uint64_t from = was;

		// what would overflow the bucket is lost; and after the rate was lowered, or raised
		// and lowered, the number says nothing
		if (from < ever - burst || from > ever + per_s)
			from = ever - burst;
		if (from + n > ever)
			return false;
		if (__atomic_compare_exchange_n(taken, &was, from + n, false, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED))
			return true;
	}
	return false;
}

/* Sees to it that there are `n` tokens of credit. */
static bool borrow(uint32_t *credit, uint64_t *taken, uint64_t per_s, uint64_t burst, uint32_t n,
		   uint64_t batch, uint64_t now_ms)
{
	uint64_t missing, more;

	if (*credit >= n)
		return true;
	missing = n - *credit;
	more = least(batch, burst / BATCHES);
	if (more > missing && take(taken, per_s, burst, more, now_ms))
		*credit += (uint32_t)more;
	else if (take(taken, per_s, burst, missing, now_ms))
		*credit += (uint32_t)missing;
	return *credit >= n;
}

bool rates_borrow(const struct rate *rate, struct rates_account *account,
		  struct rates_credit *credit, uint32_t messages, uint32_t bytes, uint64_t now_ms)
{
	return borrow(&credit->messages, &account->messages, rate->messages_per_s,
		      rate->messages_burst, messages, BATCH_MESSAGES, now_ms) &&
	       borrow(&credit->bytes, &account->bytes, rate->bytes_per_s, rate->bytes_burst, bytes,
		      BATCH_BYTES, now_ms);
}
