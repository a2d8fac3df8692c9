/*
 * A relay made of a ZeroMQ ROUTER: peers are DEALERs with an identity, and send two frames: to
 * whom, and what. What nobody is there for is dropped. CURVE is off.
 */
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

int main(void)
{
	void *context = zmq_ctx_new();
	void *router = context ? zmq_socket(context, ZMQ_ROUTER) : NULL;
	zmq_msg_t from, to, what;
	int unlimited = 0;

	if (!router)
		return EXIT_FAILURE;
	zmq_setsockopt(router, ZMQ_SNDHWM, &unlimited, sizeof(unlimited));
	zmq_setsockopt(router, ZMQ_RCVHWM, &unlimited, sizeof(unlimited));
	if (zmq_bind(router, "tcp://*:5555") != 0) {
		fprintf(stderr, "relay_zmq: %s\n", zmq_strerror(zmq_errno()));
		return EXIT_FAILURE;
	}
	zmq_msg_init(&from);
	zmq_msg_init(&to);
	zmq_msg_init(&what);
	while (zmq_msg_recv(&from, router, 0) >= 0) {
		if (!zmq_msg_more(&from) || zmq_msg_recv(&to, router, 0) < 0 ||
		    !zmq_msg_more(&to) || zmq_msg_recv(&what, router, 0) < 0)
			continue;
		// sending takes the frames over
		zmq_msg_send(&to, router, ZMQ_SNDMORE);
		zmq_msg_send(&what, router, 0);
	}
	return EXIT_FAILURE;
}
