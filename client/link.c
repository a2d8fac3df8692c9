#include "link.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "dial.h"
#include "peer.h"

#define CONNECT_TIMEOUT (10 * SECOND)
#define ANSWER_TIMEOUT  (30 * SECOND) // a relay that all join at once lets them wait in line
#define DRAIN_TIMEOUT   (2 * SECOND)

/* OpenSSL's own socket BIO uses write(), which raises SIGPIPE: a library may not do that. */
static BIO_METHOD *quiet_method;
static pthread_once_t quiet_once = PTHREAD_ONCE_INIT;

static int quiet_done(BIO *bio, ssize_t n)
{
	BIO_clear_retry_flags(bio);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		BIO_set_flags(bio, BIO_FLAGS_SHOULD_RETRY);
	return (int)n;
}

static int quiet_write(BIO *bio, const char *data, int length)
{
	const struct watch *watch = BIO_get_data(bio);
	int n = quiet_done(bio, send(watch->fd, data, (size_t)length, MSG_NOSIGNAL));

	if (BIO_should_retry(bio))
		BIO_set_retry_write(bio);
	return n;
}

static int quiet_read(BIO *bio, char *data, int length)
{
	const struct watch *watch = BIO_get_data(bio);
	int n = quiet_done(bio, recv(watch->fd, data, (size_t)length, 0));

	if (BIO_should_retry(bio))
		BIO_set_retry_read(bio);
	return n;
}

static long quiet_control(BIO *bio, int command, long number, void *pointer)
{
	return command == BIO_CTRL_FLUSH;
}

static void quiet_init(void)
{
	quiet_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "viaduct");
	if (!quiet_method)
		return;
	BIO_meth_set_write(quiet_method, quiet_write);
	BIO_meth_set_read(quiet_method, quiet_read);
	BIO_meth_set_ctrl(quiet_method, quiet_control);
}

static bool quiet_use(struct link *link)
{
	BIO *bio;

	pthread_once(&quiet_once, quiet_init);
	bio = quiet_method ? BIO_new(quiet_method) : NULL;
	if (!bio)
		return false;
	BIO_set_data(bio, &link->watch);
	BIO_set_init(bio, 1);
	SSL_set_bio(link->ssl, bio, bio);
	return true;
}

/* The end, with why. Frees the link. */
static void fail(struct link *link, int error, const char *text)
{
	struct viaduct_peer *peer = link->peer;
	char copy[256];

	snprintf(copy, sizeof(copy), "%s", text); // it may be the link's own
	if (link->state == LINK_DRAIN)
		dial_drained(peer);
	else
		dial_failed(peer, error, copy);
}

/* Words what OpenSSL says, and fails. `ret` is what the SSL_ function returned. */
static void fail_tls(struct link *link, int ret)
{
	int system = errno, kind = SSL_get_error(link->ssl, ret);
	unsigned long error = ERR_peek_error();
	const char *reason = ERR_reason_error_string(error);
	char text[256];

	if (link->check.text[0]) {
		snprintf(text, sizeof(text), "the relay's certificate is refused: %s",
			 link->check.text);
		fail(link, VIADUCT_E_TLS, text);
	} else if (kind == SSL_ERROR_SYSCALL && system) {
		snprintf(text, sizeof(text), "the connection broke: %s", strerror(system));
		fail(link, -system, text);
	} else if (kind == SSL_ERROR_ZERO_RETURN || kind == SSL_ERROR_SYSCALL ||
		   ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
		fail(link, -ECONNRESET, "the relay closed the connection without an answer");
	} else if (ERR_GET_LIB(error) == ERR_LIB_SSL &&
		   ERR_GET_REASON(error) > SSL_AD_REASON_OFFSET) {
		snprintf(text, sizeof(text), "the relay refused the handshake: %s", reason);
		fail(link, VIADUCT_E_TLS, text);
	} else {
		snprintf(text, sizeof(text), "TLS failed: %s", reason ? reason : "no reason given");
		fail(link, VIADUCT_E_PROTOCOL, text);
	}
}

/* Each step returns whether the next may follow at once. */
static bool tls_again(struct link *link, int ret)
{
	int kind = SSL_get_error(link->ssl, ret);

	if (kind != SSL_ERROR_WANT_READ && kind != SSL_ERROR_WANT_WRITE)
		fail_tls(link, ret);
	return false;
}

/*
 * The relay wants to see a certificate, which it doesn't in a resumed handshake. Should it be
 * another identity's since tls_init(), the handshake fails, and the next says so.
 */
static int certificate_use(SSL *ssl, void *user)
{
	struct viaduct_peer *peer = user;
	const struct credentials *credentials;
	char text[256];

	return !peer_credentials(peer, &credentials, text, sizeof(text)) &&
	       SSL_use_cert_and_key(ssl, credentials->certificate, credentials->key,
				    credentials->chain, 1) == 1;
}

/* Not before there is a connection: half of the work of a handshake is in here. */
static int tls_init(struct link *link, char *text, size_t size)
{
	struct viaduct_peer *peer = link->peer;
	const struct credentials *credentials;
	SSL_CTX *ctx;
	int ret;

	ret = trust_get(&ctx, peer->v, peer->ca, text, size);
	if (!ret)
		ret = peer_credentials(peer, &credentials, text, size);
	if (ret)
		return ret;
	link->ssl = SSL_new(ctx);
	if (!link->ssl || !quiet_use(link)) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	SSL_set_cert_cb(link->ssl, certificate_use, peer);
	if (ctx != peer->ctx) {
		// another CA file: what was verified against the old one counts no more
		SSL_SESSION_free(peer->ticket);
		peer->ticket = NULL;
		SSL_CTX_free(peer->ctx);
		SSL_CTX_up_ref(ctx);
		peer->ctx = ctx;
	}
	link->check.federation = peer->federation;
	link->check.ticket = &peer->ticket;
	SSL_set_app_data(link->ssl, &link->check);
	if (peer->ticket)
		SSL_set_session(link->ssl, peer->ticket);
	return 0;
}

static bool step_connect(struct link *link, uint32_t events)
{
	socklen_t size = sizeof(int);
	int error = 0;
	char text[256];

	if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
		return false;
	getsockopt(link->watch.fd, SOL_SOCKET, SO_ERROR, &error, &size);
	if (error) {
		snprintf(text, sizeof(text), "can't connect: %s", strerror(error));
		fail(link, -error, text);
		return false;
	}
	link->state = LINK_HANDSHAKE;
	context_timer_in(link->peer->v, &link->deadline, ANSWER_TIMEOUT);
	error = tls_init(link, text, sizeof(text));
	if (error)
		fail(link, error, text);
	return !error;
}

static bool step_handshake(struct link *link)
{
	const uint8_t *alpn;
	unsigned int length;
	int ret = SSL_connect(link->ssl);

	if (ret != 1)
		return tls_again(link, ret);
	SSL_get0_alpn_selected(link->ssl, &alpn, &length);
	if (length != strlen(WIRE_ALPN) || memcmp(alpn, WIRE_ALPN, length)) {
		fail(link, VIADUCT_E_PROTOCOL,
		     "this is no Viaduct relay: it doesn't speak " WIRE_ALPN);
		return false;
	}
	ret = dial_hello(link->peer, link->ssl, link->line);
	if (ret < 0) {
		fail(link, ret, "can't make hello");
		return false;
	}
	link->length = (size_t)ret;
	link->state = LINK_HELLO;
	return true;
}

static bool step_hello(struct link *link)
{
	int ret = SSL_write(link->ssl, link->line, (int)link->length);

	if (ret <= 0)
		return tls_again(link, ret);
	link->length = link->done = 0;
	link->state = LINK_ANSWER;
	return true;
}

static bool step_answer(struct link *link)
{
	struct viaduct_peer *peer = link->peer;
	char *end;
	int ret;

	if (link->length == sizeof(link->line)) {
		fail(link, VIADUCT_E_PROTOCOL, "the relay's answer is too long");
		return false;
	}
	ret = SSL_read(link->ssl, link->line + link->length,
		       (int)(sizeof(link->line) - link->length));
	if (ret <= 0)
		return tls_again(link, ret);
	link->length += (size_t)ret;
	end = memchr(link->line, '\n', link->length);
	if (!end)
		return true;
	link->state = LINK_DRAIN;
	context_timer_in(peer->v, &link->deadline, DRAIN_TIMEOUT);
	dial_answered(peer, link->ssl, link->line, (size_t)(end - link->line));
	return peer->link == link;
}

static bool step_drain(struct link *link)
{
	char reserved[512]; // bytes behind the answer mean nothing yet
	int ret = SSL_read(link->ssl, reserved, sizeof(reserved));

	return ret > 0 ? true : tls_again(link, ret);
}

static void link_ready(struct watch *watch, uint32_t events)
{
	struct link *link = owner_of(watch, struct link, watch);
	bool more = true;

	while (more) {
		ERR_clear_error();
		errno = 0;
		switch (link->state) {
		case LINK_CONNECT:
			more = step_connect(link, events);
			break;
		case LINK_HANDSHAKE:
			more = step_handshake(link);
			break;
		case LINK_HELLO:
			more = step_hello(link);
			break;
		case LINK_ANSWER:
			more = step_answer(link);
			break;
		case LINK_DRAIN:
			more = step_drain(link);
			break;
		}
	}
}

static void link_late(struct timer *timer)
{
	struct link *link = owner_of(timer, struct link, deadline);

	fail(link, -ETIMEDOUT,
	     link->state == LINK_CONNECT ? "can't connect: no answer"
					 : "the relay took too long to answer");
}

int link_open(struct viaduct_peer *peer, const struct sockaddr_storage *address, char *text,
	      size_t size)
{
	struct link *link = calloc(1, sizeof(*link));
	int one = 1, ret;

	if (!link) {
		snprintf(text, size, "out of memory");
		return -ENOMEM;
	}
	link->peer = peer;
	link->watch = (struct watch){.fd = -1, .ready = link_ready};
	link->deadline.fire = link_late;

	link->watch.fd = socket(address->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (link->watch.fd < 0) {
		ret = -errno;
		snprintf(text, size, "no socket: %s", strerror(errno));
		goto out;
	}
	setsockopt(link->watch.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(link->watch.fd, (const struct sockaddr *)address, sizeof(*address)) &&
	    errno != EINPROGRESS) {
		ret = -errno;
		snprintf(text, size, "can't connect: %s", strerror(errno));
		goto out;
	}
	// edges of both kinds, so that what TLS waits for need not be told each time
	ret = context_watch(peer->v, &link->watch, EPOLLIN | EPOLLOUT | EPOLLET);
	if (ret) {
		snprintf(text, size, "can't watch a socket: %s", strerror(-ret));
		goto out;
	}
	context_timer_in(peer->v, &link->deadline, CONNECT_TIMEOUT);
	peer->link = link;
	return 0;
out:
	link_free(link);
	return ret;
}

void link_free(struct link *link)
{
	if (!link)
		return;
	context_timer_stop(link->peer->v, &link->deadline);
	if (link->ssl) {
		if (link->state == LINK_DRAIN)
			SSL_shutdown(link->ssl);
		// OpenSSL spoils the ticket of a connection that is freed without a shutdown
		SSL_set_shutdown(link->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
		SSL_free(link->ssl);
	}
	context_unwatch(link->peer->v, &link->watch);
	ERR_clear_error();
	free(link);
}
