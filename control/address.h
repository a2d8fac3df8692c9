/*
 * IP addresses as text, as struct sockaddr and as struct endpoint. Pure.
 */
#ifndef VIADUCT_ADDRESS_H
#define VIADUCT_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "session.h"

enum { ADDRESS_TEXT = 56 }; // of "[IPv6]:port" with the NUL

/* Reads "a.b.c.d:port" or "[v6]:port". Returns its length, or 0 if it is none. */
socklen_t address_parse(struct sockaddr_storage *address, const char *text);

/* Whether it is host:port or [IPv6 address]:port; the host may be a name. */
bool address_is_relay(const char *text);

/* Whether `text` is an IP address of either version. */
bool address_is_ip(const char *text);

/* IP and port of `address`, which is an AF_INET or AF_INET6; the MAC is zero. */
void address_endpoint(struct endpoint *endpoint, const struct sockaddr_storage *address);

bool address_is_v4(const struct endpoint *endpoint);
uint16_t address_port(const struct endpoint *endpoint);

/* Writes the IP address, or IP and port, as text. */
void address_format_ip(char text[ADDRESS_TEXT], const struct endpoint *endpoint);
void address_format(char text[ADDRESS_TEXT], const struct endpoint *endpoint);

#endif
