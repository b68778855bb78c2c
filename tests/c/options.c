/* wg_options_t: each field. Callers that are older or newer than the library are in sizes.c. */
#include "check.h"

static int fd, app;

static void renew(void) {
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  fd = pair[0];
  app = pair[1];
}

/* These options work; the descriptor was taken. */
static void check_works(const wg_options_t *options) {
  int32_t handle = wg_turn_on_with(options, "");
  CHECK(handle > 0);
  CHECK(!is_open(fd));
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  close(app);
  renew();
}

static void check_refused(const wg_options_t *options, int32_t code, const char *text) {
  CHECK_FAILS(wg_turn_on_with(options, ""), code, text);
  CHECK(is_open(fd) && !is_nonblocking(fd));
}

static void fields(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  static const size_t not_limits[] = {1, WG_MEMORY_MIN - 1, WG_MEMORY_MAX + 1, SIZE_MAX};
  static const uint32_t mtus[] = {576, 1280, 1420, 65535}, not_mtus[] = {1, 575, 65536, UINT32_MAX};
  size_t i;
  CHECK_EQ(options.struct_size, sizeof options);
  check_refused(&options, WG_ERR_INVALID, "descriptor -1 is not open");
  check_refused(NULL, WG_ERR_NULL, "options is NULL");
  options.tun_fd = fd;
  check_works(&options);
  CHECK_FAILS(wg_turn_on_with(&options, NULL), WG_ERR_NULL, "uapi is NULL");

  options.fd_ownership = 0;
  check_refused(&options, WG_ERR_INVALID, "fd_ownership is 0");
  options.fd_ownership = 3;
  check_refused(&options, WG_ERR_INVALID, "fd_ownership is 3");
  options.fd_ownership = WG_FD_TAKE;

  for (i = 0; i < sizeof mtus / sizeof mtus[0]; i++) {
    options.tun_fd = fd;
    options.mtu = mtus[i];
    check_works(&options);
  }
  options.tun_fd = fd;
  for (i = 0; i < sizeof not_mtus / sizeof not_mtus[0]; i++) {
    options.mtu = not_mtus[i];
    check_refused(&options, WG_ERR_INVALID, "mtu is");
  }
  options.mtu = 0;

  options.max_peers = 16777217;
  check_refused(&options, WG_ERR_INVALID, "max_peers is 16777217");
  options.max_peers = 65536;
  check_works(&options);
  options.tun_fd = fd;

  for (i = 0; i < sizeof not_limits / sizeof not_limits[0]; i++) {
    options.memory_limit = not_limits[i];
    check_refused(&options, WG_ERR_INVALID, "memory_limit is");
  }
  options.memory_limit = WG_MEMORY_MAX;
  check_works(&options);
  options.tun_fd = fd;
  options.memory_limit = WG_MEMORY_MIN;
  check_works(&options);
  options.tun_fd = fd;

  options.workers = WG_WORKERS_MAX + 1;
  check_refused(&options, WG_ERR_INVALID, "workers is 9");
  options.workers = WG_WORKERS_NONE;
  check_works(&options);
  options.tun_fd = fd;
  options.workers = WG_WORKERS_MAX;
  check_works(&options);
  options.tun_fd = fd;

  options.queue_fds = &fd;
  check_refused(&options, WG_ERR_INVALID, "queue_fds is set");
  options.queue_fds = NULL;
  options.queues = WG_QUEUES_MAX + 1;
  check_refused(&options, WG_ERR_INVALID, "queues is 9");
#ifdef __linux__
  options.queues = 2;
  check_refused(&options, WG_ERR_INVALID, "queue_fds is NULL");
  options.queue_fds = &fd;
  check_refused(&options, WG_ERR_INVALID, "that of two queues");
  /* A socketpair has no queues. Nothing is taken. */
  options.queue_fds = &app;
  check_refused(&options, WG_ERR_INVALID, "not a queue");
#endif
  options.queues = 1;
  options.queue_fds = NULL;
  check_works(&options);
}

/* The MTU is the one of padding: a packet that fills it is not padded beyond it. */
static void the_mtu_is_used(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end a, b;
  struct pollfd ready = {0, POLLIN, 0};
  unsigned char sent[1300], got[2000];
  char uapi[512], *text;
  int pair[2], tries, counted;
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.mtu = 1285;
  b = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n");
  snprintf(uapi, sizeof uapi,
           "private_key=%s\npublic_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.2/32\n", PRIVATE_A,
           PUBLIC_B, PSK, listen_port(b.handle));
  a.handle = wg_turn_on_with(&options, uapi);
  a.app = pair[1];
  CHECK(a.handle > 0);
  add_peer(b, PUBLIC_A, listen_port(a.handle), 1);
  make_packet(sent, 1285, 1, 2, 0);
  CHECK_EQ(send(a.app, sent, 1285, 0), 1285);
  ready.fd = b.app;
  CHECK_EQ(poll(&ready, 1, 60000), 1);
  CHECK_EQ(recv(b.app, got, sizeof got, 0), 1285);
  /* 148 bytes of handshake; header 16, packet 1285, tag 16. They count once the send has returned, which may be after
     the packet has arrived. */
  for (tries = 0;; tries++) {
    text = get(a.handle);
    counted = strstr(text, "\ntx_bytes=1465\n") != NULL;
    wg_free(text);
    if (counted) break;
    CHECK(tries < TRIES);
    sleep_ms(2);
  }
  turn_off(a);
  turn_off(b);
}

static void max_peers_is_a_limit(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  options.tun_fd = fd;
  options.max_peers = 1;
  handle = wg_turn_on_with(&options, "public_key=" PUBLIC_A "\n");
  CHECK(handle > 0);
  CHECK_FAILS(wg_set_config(handle, "public_key=" PUBLIC_B "\n"), WG_ERR_INVALID, "more than 1 peers");
  CHECK_EQ(wg_set_config(handle, "replace_peers=true\npublic_key=" PUBLIC_B "\n"), WG_OK);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  close(app);
  renew();
}

#ifndef WG_EMBED_NETSTACK
/* A library without the userspace network says so. */
static void there_is_no_network(void) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  options.net = &net;
  check_refused(&options, WG_ERR_UNSUPPORTED, "net is set");
}
#endif

int main(void) {
  renew();
  fields();
  the_mtu_is_used();
  max_peers_is_a_limit();
#ifndef WG_EMBED_NETSTACK
  there_is_no_network();
#endif
  close(fd);
  close(app);
  return 0;
}
