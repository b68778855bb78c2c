/* Two tunnels with userspace networks that know each other over the loopback interface: what the tests of wg_net_*
 * have in common. They need a library that was built with the feature `netstack`. */
#ifndef NET_H
#define NET_H

#include "check.h"

/* a is 10.9.0.1 and fd09::1, b is 10.9.0.2 and fd09::2. All that is not a's own goes to b. */
struct nets {
  int32_t a, b;
};

/* A peer of b that never answers. What is for nobody is unreachable at once. */
#define SILENT "public_key=" PSK "\nendpoint=127.0.0.1:9\nallowed_ip=10.9.7.0/24\nallowed_ip=10.9.8.0/24\n"

/* Longer than anything takes that comes about. */
#define LONG 60000

static inline int32_t turn_net_on(const char *addresses, const char *dns, const char *uapi) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  net.addresses = addresses;
  net.dns = dns;
  options.net = &net;
  handle = wg_turn_on_with(&options, uapi);
  CHECK(handle > 0);
  return handle;
}

static inline struct nets turn_nets_on(void) {
  struct nets nets;
  char text[512];
  nets.a = turn_net_on("10.9.0.1/24, fd09::1/64", "10.9.0.2", "private_key=" PRIVATE_A "\n");
  nets.b = turn_net_on("10.9.0.2, fd09::2", NULL, "private_key=" PRIVATE_B "\n");
  snprintf(text, sizeof text, "public_key=" PUBLIC_B "\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
           listen_port(nets.b));
  CHECK_EQ(wg_set_config(nets.a, text), WG_OK);
  snprintf(text, sizeof text,
           "public_key=" PUBLIC_A "\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.1/32\nallowed_ip=fd09::1/128\n"
           SILENT,
           listen_port(nets.a));
  CHECK_EQ(wg_set_config(nets.b, text), WG_OK);
  return nets;
}

static inline void turn_nets_off(struct nets nets) {
  CHECK_EQ(wg_turn_off(nets.a), WG_OK);
  CHECK_EQ(wg_turn_off(nets.b), WG_OK);
}

/* A descriptor of ours is as documented. */
static inline int checked(int fd, int kind) {
  int type;
  socklen_t len = sizeof type;
  CHECK(fd > 2 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0 && !is_nonblocking(fd));
  CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len), 0);
  if (kind == SOCK_STREAM) CHECK_EQ(type, SOCK_STREAM);
  else CHECK(type == SOCK_DGRAM || type == SOCK_SEQPACKET);
  return fd;
}

static inline int dial(int32_t handle, const char *network, const char *address) {
  int32_t fd = -1;
  CHECK_EQ(wg_net_dial(handle, network, address, LONG, &fd), WG_OK);
  return checked(fd, network[0] == 't' ? SOCK_STREAM : SOCK_DGRAM);
}

static inline int listen_at(int32_t handle, const char *network, const char *address) {
  int32_t fd = -1, result, tries;
  /* A listener that was just closed is noticed by another thread. */
  for (tries = 0; (result = wg_net_listen(handle, network, address, 0, &fd)) == WG_ERR_ADDR_IN_USE; tries++)
    CHECK(tries < 300);
  CHECK_EQ(result, WG_OK);
  CHECK(fd > 2 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  return fd;
}

static inline int accept_from(int32_t handle, int listener, wg_net_connection_t *connection) {
  wg_net_connection_t whose;
  int32_t fd = -1;
  CHECK_EQ(wg_net_accept(handle, listener, LONG, &fd, &whose), WG_OK);
  checked(fd, whose.protocol == WG_NET_TCP ? SOCK_STREAM : SOCK_DGRAM);
  if (connection) *connection = whose;
  return fd;
}

static inline const char *text_of(const wg_endpoint_t *endpoint) {
  static char texts[4][WG_ENDPOINT_TEXT_LEN];
  static int next;
  char *text = texts[next++ % 4];
  CHECK_EQ(wg_endpoint_format(endpoint, text), WG_OK);
  return text;
}

static inline const char *local_of(int32_t handle, int fd) {
  wg_endpoint_t endpoint;
  CHECK_EQ(wg_net_local_address(handle, fd, &endpoint), WG_OK);
  return text_of(&endpoint);
}

static inline const char *peer_of_fd(int32_t handle, int fd) {
  wg_endpoint_t endpoint;
  CHECK_EQ(wg_net_peer_address(handle, fd, &endpoint), WG_OK);
  return text_of(&endpoint);
}

static inline int port_of(int32_t handle, int fd) {
  wg_endpoint_t endpoint;
  CHECK_EQ(wg_net_local_address(handle, fd, &endpoint), WG_OK);
  CHECK(endpoint.port != 0);
  return endpoint.port;
}

#define wait_readable(fd) wait_readable_at(fd, __FILE__, __LINE__)

static inline void wait_readable_at(int fd, const char *file, int line) {
  struct pollfd ready = {0, POLLIN, 0};
  ready.fd = fd;
  if (poll(&ready, 1, LONG) == 1) return;
  fprintf(stderr, "%s:%d: there was nothing to read\n", file, line);
  exit(1);
}

static inline int is_readable(int fd) {
  struct pollfd ready = {0, POLLIN, 0};
  ready.fd = fd;
  return poll(&ready, 1, 0) == 1;
}

/* Reads exactly so much. */
static inline void read_all(int fd, void *bytes, size_t len) {
  unsigned char *at = bytes;
  while (len > 0) {
    ssize_t got;
    wait_readable(fd);
    got = read(fd, at, len);
    CHECK(got > 0);
    at += got;
    len -= (size_t)got;
  }
}

static inline void write_all(int fd, const void *bytes, size_t len) {
  const unsigned char *at = bytes;
  while (len > 0) {
    ssize_t sent = send(fd, at, len, MSG_NOSIGNAL);
    CHECK(sent > 0);
    at += sent;
    len -= (size_t)sent;
  }
}

static inline void check_end(int fd) {
  char byte;
  wait_readable(fd);
  CHECK_EQ(read(fd, &byte, 1), 0);
}

/* The end, in whatever way, after what is still there. */
#define wait_gone(fd) wait_gone_at(fd, __FILE__, __LINE__)

static inline void wait_gone_at(int fd, const char *file, int line) {
  char bytes[4096];
  do wait_readable_at(fd, file, line);
  while (recv(fd, bytes, sizeof bytes, 0) > 0);
}

/* The peer has reset the connection, which has nothing to read. */
static inline void check_reset(int fd) {
  char byte;
  wait_readable(fd);
  CHECK(read(fd, &byte, 1) == -1 && errno == ECONNRESET);
}

/* Text goes one way. */
static inline void check_sent(int from, int to, const char *text) {
  char got[256] = {0};
  size_t len = strlen(text);
  CHECK(len < sizeof got);
  write_all(from, text, len);
  read_all(to, got, len);
  CHECK_TEXT(got, text);
}

#endif
