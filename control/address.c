#include "address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* 1 to 65535, or 0 if it is no port. */
static uint16_t port_parse(const char *text)
{
	unsigned int port = 0;

	if (*text == '0')
		return 0;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return 0;
		port = port * 10 + (unsigned int)(*text - '0');
		if (port > 65535)
			return 0;
	}
	return (uint16_t)port;
}

socklen_t address_parse(struct sockaddr_storage *address, const char *text)
{
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
	struct sockaddr_in *v4 = (struct sockaddr_in *)address;
	const char *colon = strrchr(text, ':');
	char ip[INET6_ADDRSTRLEN];
	bool brackets = text[0] == '[';
	const char *begin = text + brackets;
	uint16_t port;
	size_t length;

	memset(address, 0, sizeof(*address));
	if (!colon || colon == text)
		return 0;
	port = port_parse(colon + 1);
	if (!port || (brackets && colon[-1] != ']'))
		return 0;
	length = (size_t)(colon - brackets - begin);
	if (length >= sizeof(ip))
		return 0;
	memcpy(ip, begin, length);
	ip[length] = '\0';
	if (brackets) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		return inet_pton(AF_INET6, ip, &v6->sin6_addr) == 1 ? sizeof(*v6) : 0;
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons(port);
	return inet_pton(AF_INET, ip, &v4->sin_addr) == 1 ? sizeof(*v4) : 0;
}

bool address_is_relay(const char *text)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";
	struct sockaddr_storage address;
	size_t length = strspn(text, allowed);

	if (*text == '[')
		return address_parse(&address, text) != 0;
	return length && text[length] == ':' && port_parse(text + length + 1);
}

bool address_is_ip(const char *text)
{
	struct in6_addr address;

	return inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1;
}

void address_endpoint(struct endpoint *endpoint, const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;

	memset(endpoint, 0, sizeof(*endpoint));
	if (address->ss_family == AF_INET) {
		memcpy(endpoint->ip, v4_mapped, sizeof(v4_mapped));
		memcpy(endpoint->ip + sizeof(v4_mapped), &v4->sin_addr, sizeof(v4->sin_addr));
		memcpy(endpoint->port, &v4->sin_port, sizeof(v4->sin_port));
	} else {
		memcpy(endpoint->ip, &v6->sin6_addr, sizeof(v6->sin6_addr));
		memcpy(endpoint->port, &v6->sin6_port, sizeof(v6->sin6_port));
	}
}

bool address_is_v4(const struct endpoint *endpoint)
{
	return memcmp(endpoint->ip, v4_mapped, sizeof(v4_mapped)) == 0;
}

uint16_t address_port(const struct endpoint *endpoint)
{
	return wire_get16(endpoint->port);
}

void address_format_ip(char text[ADDRESS_TEXT], const struct endpoint *endpoint)
{
	if (address_is_v4(endpoint))
		inet_ntop(AF_INET, endpoint->ip + sizeof(v4_mapped), text, ADDRESS_TEXT);
	else
		inet_ntop(AF_INET6, endpoint->ip, text, ADDRESS_TEXT);
}

void address_format(char text[ADDRESS_TEXT], const struct endpoint *endpoint)
{
	char ip[ADDRESS_TEXT];

	address_format_ip(ip, endpoint);
	snprintf(text, ADDRESS_TEXT, address_is_v4(endpoint) ? "%.45s:%u" : "[%.45s]:%u", ip,
		 address_port(endpoint));
}
