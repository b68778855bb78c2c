/* Binds: datagrams through them, every way in which a call fails, and threads that race with closing. */
#include "check.h"

#include <limits.h>

#define MANY WG_BATCH_SIZE

static wg_endpoint_t at(const char *host, int port) {
  char text[WG_ENDPOINT_TEXT_LEN];
  wg_endpoint_t endpoint;
  snprintf(text, sizeof text, "%s:%d", host, port);
  CHECK_EQ(wg_endpoint_parse(text, &endpoint), WG_OK);
  return endpoint;
}

static int32_t open_bind(uint16_t *port) {
  int32_t bind;
  *port = 0;
  bind = wg_udp_open(NULL, port);
  CHECK(bind > 0);
  CHECK(*port != 0);
  return bind;
}

static wg_datagram_t datagram(const char *text, wg_endpoint_t *peer) {
  wg_datagram_t datagram = {0};
  datagram.data = (void *)text;
  datagram.len = strlen(text);
  datagram.peer = peer;
  return datagram;
}

/* Room for datagrams, each of its own allocation, so that a sanitizer sees what is written beyond it. */
struct room {
  wg_datagram_t datagrams[MANY];
  wg_endpoint_t *peers;
};

static struct room make_room(size_t capacity) {
  struct room room;
  int i;
  memset(&room, 0, sizeof room);
  room.peers = calloc(MANY, sizeof *room.peers);
  CHECK(room.peers != NULL);
  for (i = 0; i < MANY; i++) {
    room.datagrams[i].data = malloc(capacity);
    CHECK(room.datagrams[i].data != NULL);
    room.datagrams[i].capacity = capacity;
    room.datagrams[i].peer = &room.peers[i];
  }
  return room;
}

static void free_room(struct room *room) {
  int i;
  for (i = 0; i < MANY; i++) free(room->datagrams[i].data);
  free(room->peers);
}

/* Receives `count`, at most `at_a_time` with a call, to the front of the room. */
static void receive(int32_t bind, uint32_t family, struct room *room, int count, int at_a_time) {
  int got = 0;
  while (got < count) {
    int most = at_a_time < MANY - got ? at_a_time : MANY - got;
    int more = wg_udp_recv(bind, family, room->datagrams + got, (size_t)most, 5000);
    CHECK(more > 0 && more <= most);
    got += more;
  }
  CHECK_EQ(got, count);
}

static void check_is(const wg_datagram_t *datagram, const char *text) {
  CHECK_EQ(datagram->len, strlen(text));
  CHECK_EQ(datagram->full_len, strlen(text));
  CHECK(strlen(text) == 0 || memcmp(datagram->data, text, strlen(text)) == 0);
  CHECK_EQ(datagram->flags, 0);
  CHECK_EQ(datagram->segment_size, 0);
}

static const struct {
  uint32_t family;
  const char *host, *foreign;
} families[] = {{WG_IPV4, "127.0.0.1", "192.0.2.77"}, {WG_IPV6, "[::1]", "2001:db8::77"}};

static void ping_and_pong(void) {
  struct room room = make_room(100);
  int i;
  for (i = 0; i < 2; i++) {
    uint16_t port_a, port_b;
    int32_t a = open_bind(&port_a), b = open_bind(&port_b);
    wg_endpoint_t to_b = at(families[i].host, port_b);
    wg_datagram_t ping = datagram("ping", &to_b);
    wg_send_report_t report;
    CHECK(a != b && port_a != port_b);
    CHECK_EQ(wg_udp_batch_size(a), WG_BATCH_SIZE);
    ping.tos = 0x2;
    CHECK_EQ(wg_udp_send(a, &ping, 1, &report), 1);
    CHECK(report.sent == 1 && report.dropped == 0 && report.os_error == 0 && report.gso_disabled == 0);
    receive(b, families[i].family, &room, 1, MANY);
    check_is(&room.datagrams[0], "ping");
    CHECK_EQ(room.datagrams[0].tos, 0x2);
    CHECK_EQ(room.peers[0].source_interface, 1); /* lo */
    /* As it is, back to where it came from. */
    CHECK_EQ(wg_udp_send(b, room.datagrams, 1, NULL), 1);
    receive(a, families[i].family, &room, 1, MANY);
    check_is(&room.datagrams[0], "ping");
    CHECK_EQ(wg_endpoint_clear_source(&room.peers[0]), WG_OK);
    CHECK_EQ(memcmp(&room.peers[0], &to_b, sizeof to_b), 0);
    CHECK_EQ(room.peers[0].port, port_b);
    CHECK_EQ(wg_udp_recv(a, families[i].family, room.datagrams, 1, 0), 0);
    CHECK_EQ(wg_udp_recv(a, families[i].family, room.datagrams, 1, 20), 0);
    CHECK_EQ(wg_udp_close(a), WG_OK);
    CHECK_EQ(wg_udp_close(b), WG_OK);
  }
  free_room(&room);
}

/* 127.0.0.9 is ours as well: the answer comes from there. */
static void answers_leave_from_the_address_that_was_asked(void) {
  struct room room = make_room(100);
  uint16_t port;
  int32_t bind = open_bind(&port);
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  char text[WG_ENDPOINT_TEXT_LEN];
  int peer = socket(AF_INET, SOCK_DGRAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(0x7f000009);
  CHECK(peer >= 0);
  CHECK_EQ(sendto(peer, "x", 1, 0, (struct sockaddr *)&address, len), 1);
  receive(bind, WG_IPV4, &room, 1, 1);
  CHECK_EQ(wg_endpoint_format_source(&room.peers[0], text), WG_OK);
  CHECK_EQ(strcmp(text, "127.0.0.9"), 0);
  CHECK_EQ(wg_udp_send(bind, room.datagrams, 1, NULL), 1);
  memset(&address, 0, sizeof address);
  CHECK_EQ(recvfrom(peer, text, sizeof text, 0, (struct sockaddr *)&address, &len), 1);
  CHECK_EQ(ntohl(address.sin_addr.s_addr), 0x7f000009);
  CHECK_EQ(ntohs(address.sin_port), port);
  close(peer);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
  free_room(&room);
}

static void full_batches_pass_whole(void) {
  static unsigned char data[MANY][1200];
  wg_udp_options_t without = WG_UDP_OPTIONS_INIT;
  const wg_udp_options_t *const options[] = {NULL, &without};
  struct room room = make_room(1200);
  wg_datagram_t batch[MANY];
  int i, family, option, at_a_time;
  without.flags = WG_UDP_NO_OFFLOAD | WG_UDP_ANY_INTERFACE;
  for (option = 0; option < 2; option++) {
    uint16_t port = 0;
    int32_t bind = wg_udp_open(options[option], &port);
    CHECK(bind > 0);
    for (family = 0; family < 2; family++) {
      wg_endpoint_t to = at(families[family].host, port);
      wg_send_report_t report;
      for (i = 0; i < MANY; i++) {
        memset(data[i], i, sizeof data[i]);
        batch[i] = datagram("", &to);
        batch[i].data = data[i];
        batch[i].len = sizeof data[i] - (size_t)(i % 5 == 4);
      }
      for (at_a_time = 1; at_a_time < 200; at_a_time += 63) {
        CHECK_EQ(wg_udp_send(bind, batch, MANY, &report), MANY);
        CHECK(report.sent == MANY && report.dropped == 0);
        receive(bind, families[family].family, &room, MANY, at_a_time);
        for (i = 0; i < MANY; i++) {
          CHECK_EQ(room.datagrams[i].len, batch[i].len);
          CHECK_EQ(memcmp(room.datagrams[i].data, data[i], batch[i].len), 0);
          CHECK_EQ(room.peers[i].port, port);
        }
      }
      /* The same data as one datagram with segments. */
      memset(data, 7, sizeof data);
      batch[0] = datagram("", &to);
      batch[0].data = data;
      batch[0].len = 30 * sizeof data[0] + 1;
      batch[0].segment_size = sizeof data[0];
      CHECK_EQ(wg_udp_send(bind, batch, 1, &report), 1);
      CHECK_EQ(report.sent, 31);
      receive(bind, families[family].family, &room, 31, MANY);
      CHECK(room.datagrams[29].len == sizeof data[0] && room.datagrams[30].len == 1);
    }
    CHECK_EQ(wg_udp_close(bind), WG_OK);
  }
  free_room(&room);
}

static void what_does_not_fit_is_cut_and_said(void) {
  struct room small = make_room(4);
  uint16_t port;
  int32_t bind = open_bind(&port);
  wg_endpoint_t to = at("127.0.0.1", port);
  wg_datagram_t batch[4];
  batch[0] = datagram("0123456789", &to);
  batch[1] = datagram("", &to);
  batch[2] = datagram("next", &to);
  batch[3] = datagram("last", &to);
  CHECK_EQ(wg_udp_send(bind, batch, 4, NULL), 4);
  receive(bind, WG_IPV4, &small, 3, 3);
  CHECK(small.datagrams[0].len == 4 && small.datagrams[0].full_len == 10);
  CHECK_EQ(small.datagrams[0].flags, WG_DATAGRAM_TRUNCATED);
  CHECK_EQ(memcmp(small.datagrams[0].data, "0123", 4), 0);
  check_is(&small.datagrams[1], "");
  check_is(&small.datagrams[2], "next");
  /* Into no room at all, and to nobody who wants to know from whom. */
  memset(batch, 0, sizeof batch);
  CHECK_EQ(wg_udp_recv(bind, WG_IPV4, batch, 1, 5000), 1);
  CHECK(batch[0].len == 0 && batch[0].full_len == 4 && batch[0].flags == WG_DATAGRAM_TRUNCATED);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
  free_room(&small);
}

static void what_the_system_refuses_is_flagged(void) {
  static char huge[65508];
  struct room room = make_room(100);
  int i;
  for (i = 0; i < 2; i++) {
    uint16_t port;
    int32_t bind = open_bind(&port);
    wg_endpoint_t to = at(families[i].host, port), nowhere = at(families[i].host, 0), stale = to;
    wg_datagram_t batch[5];
    wg_send_report_t report;
    CHECK_EQ(inet_pton(i == 0 ? AF_INET : AF_INET6, families[i].foreign, stale.source), 1);
    batch[0] = datagram("one", &to);
    batch[1] = datagram("two", &nowhere);
    batch[2] = datagram("six", &stale);
    batch[3] = datagram("", &to);
    batch[3].data = huge;
    batch[3].len = sizeof huge + (size_t)i * 20; /* without its extensions, IPv6 takes 20 bytes more */
    batch[4] = datagram("ten", &to);
    CHECK_EQ(wg_udp_send(bind, batch, 5, &report), 3);
    CHECK(report.sent == 3 && report.dropped == 2);
    CHECK_EQ(report.os_error, EINVAL);
    CHECK_EQ(batch[0].flags, 0);
    CHECK_EQ(batch[1].flags, WG_DATAGRAM_DROPPED);
    CHECK_EQ(batch[2].flags, WG_DATAGRAM_SOURCE_CLEARED);
    CHECK_EQ(batch[3].flags, WG_DATAGRAM_DROPPED);
    CHECK_EQ(batch[4].flags, 0);
    CHECK_EQ(memcmp(&stale, &to, sizeof to), 0);
    receive(bind, families[i].family, &room, 3, 1);
    check_is(&room.datagrams[0], "one");
    check_is(&room.datagrams[1], "six");
    check_is(&room.datagrams[2], "ten");
    CHECK_EQ(wg_udp_send(bind, batch, 0, &report), 0);
    CHECK(report.sent == 0 && report.dropped == 0);
    CHECK_EQ(wg_udp_close(bind), WG_OK);
  }
  free_room(&room);
}

static void bad_arguments_send_and_receive_nothing(void) {
  static wg_datagram_t many[WG_BATCH_SIZE + 1];
  uint16_t port;
  int32_t bind = open_bind(&port);
  wg_endpoint_t to = at("127.0.0.1", port), wrong = to;
  wg_datagram_t batch[2], one = datagram("x", &to);
  wg_send_report_t report, untouched;
  int i;
  memset(&report, 0xaa, sizeof report);
  untouched = report;
  for (i = 0; i <= WG_BATCH_SIZE; i++) many[i] = one;
  many[0].flags = 77;
  CHECK_FAILS(wg_udp_send(bind, many, WG_BATCH_SIZE + 1, &report), WG_ERR_TOO_LARGE, "129 datagrams");
  CHECK_FAILS(wg_udp_send(bind, many, SIZE_MAX, &report), WG_ERR_TOO_LARGE, "a batch, which is 128");
  CHECK_EQ(many[0].flags, 77);
  CHECK_FAILS(wg_udp_send(bind, NULL, 1, &report), WG_ERR_NULL, "datagrams is NULL");
  CHECK_EQ(wg_udp_send(bind, NULL, 0, NULL), 0);

  batch[0] = batch[1] = one;
  batch[1].peer = NULL;
  CHECK_FAILS(wg_udp_send(bind, batch, 2, &report), WG_ERR_NULL, "datagrams[1]: peer is NULL");
  batch[1] = one;
  batch[1].data = NULL;
  CHECK_FAILS(wg_udp_send(bind, batch, 2, &report), WG_ERR_NULL, "datagrams[1]: data is NULL");
  batch[1] = one;
  batch[1].tos = 256;
  CHECK_FAILS(wg_udp_send(bind, batch, 2, &report), WG_ERR_INVALID, "datagrams[1]: tos is 256");
  batch[1] = one;
  batch[1].peer = &wrong;
  wrong.family = 0;
  CHECK_FAILS(wg_udp_send(bind, batch, 2, &report), WG_ERR_INVALID, "datagrams[1]: the family is 0");
  wrong.family = AF_INET;
  CHECK_FAILS(wg_udp_send(bind, batch, 2, &report), WG_ERR_INVALID, "family is 2");
  CHECK_EQ(memcmp(&report, &untouched, sizeof report), 0);

  batch[0] = one;
  batch[0].data = NULL;
  batch[0].capacity = 1;
  CHECK_FAILS(wg_udp_recv(bind, WG_IPV4, NULL, 1, 0), WG_ERR_NULL, "datagrams is NULL");
  CHECK_FAILS(wg_udp_recv(bind, WG_IPV4, batch, 1, -1), WG_ERR_NULL, "datagrams[0]: data is NULL");
  CHECK_FAILS(wg_udp_recv(bind, WG_IPV4, batch, 0, -1), WG_ERR_INVALID, "no room");
  CHECK_FAILS(wg_udp_recv(bind, WG_IPV4, NULL, 0, -1), WG_ERR_INVALID, "no room");
  CHECK_FAILS(wg_udp_recv(bind, AF_INET, &one, 1, 0), WG_ERR_INVALID, "family is 2");
  CHECK_FAILS(wg_udp_peek_fd(bind, 0), WG_ERR_INVALID, "family is 0");
  CHECK_FAILS(wg_udp_set_interface(bind, 7, 0, 0), WG_ERR_INVALID, "family is 7");
  CHECK_FAILS(wg_udp_set_interface(bind, WG_IPV4, INT_MAX, 0), WG_ERR_NOT_FOUND, "2147483647");

  /* None of it has sent anything. */
  CHECK_EQ(wg_udp_recv(bind, WG_IPV4, many, 1, 0), 0);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
}

/* Everything that takes a bind, with a number that is none. */
static void check_unknown(int32_t bind) {
  uint16_t port = 7;
  wg_endpoint_t to = at("127.0.0.1", 9);
  wg_datagram_t one = datagram("x", &to);
  wg_send_report_t report;
  CHECK_FAILS(wg_udp_reopen(bind, &port), WG_ERR_UNKNOWN_HANDLE, "no bind with handle");
  CHECK_EQ(wg_udp_batch_size(bind), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_set_mark(bind, 0), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_set_interface(bind, WG_IPV4, 0, 0), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_peek_fd(bind, WG_IPV4), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_send(bind, &one, 1, &report), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_recv(bind, WG_IPV4, &one, 1, -1), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_udp_close(bind), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(port, 7);
}

static void handles_are_never_reused_nor_mixed_up(void) {
  static const int32_t foreign[] = {0, -1, INT_MIN, INT_MAX, WG_ERR_UNKNOWN_HANDLE};
  uint16_t port;
  int32_t a = open_bind(&port), b;
  struct end tunnel;
  char *text = NULL;
  size_t i;
  CHECK_EQ(wg_udp_close(a), WG_OK);
  check_unknown(a);
  b = open_bind(&port);
  CHECK(b > a);
  check_unknown(a);
  for (i = 0; i < sizeof foreign / sizeof foreign[0]; i++) check_unknown(foreign[i]);
  tunnel = turn_on(SOCK_DGRAM, "");
  CHECK(tunnel.handle > b);
  check_unknown(tunnel.handle);
  CHECK_FAILS(wg_get_config(b, &text), WG_ERR_UNKNOWN_HANDLE, "no tunnel with handle");
  CHECK_EQ(wg_set_config(b, ""), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_turn_off(b), WG_ERR_UNKNOWN_HANDLE);
  /* Both are still what they were. */
  CHECK(listen_port(tunnel.handle) > 0);
  CHECK(wg_udp_peek_fd(b, WG_IPV4) >= 0);
  turn_off(tunnel);
  CHECK_EQ(wg_udp_close(b), WG_OK);
}

static void ports(void) {
  uint16_t port, wanted;
  int32_t a = open_bind(&port), b;
  wanted = port;
  CHECK_FAILS(wg_udp_open(NULL, &wanted), WG_ERR_ADDR_IN_USE, "port");
  CHECK_EQ(wanted, port);
  b = wg_udp_open(NULL, NULL);
  CHECK(b > 0);
  CHECK_FAILS(wg_udp_reopen(b, &wanted), WG_ERR_ADDR_IN_USE, "port");
  CHECK_EQ(wg_udp_reopen(a, NULL), WG_OK);
  CHECK_FAILS(wg_udp_reopen(b, &wanted), WG_ERR_ADDR_IN_USE, "port");
  wanted = 0;
  CHECK_EQ(wg_udp_reopen(a, &wanted), WG_OK);
  CHECK(wanted != 0 && wanted != port);
  CHECK_EQ(wg_udp_reopen(b, &port), WG_OK);
  CHECK_EQ(wg_udp_close(a), WG_OK);
  CHECK_EQ(wg_udp_close(b), WG_OK);
}

static void descriptors_are_lent(void) {
  uint16_t port, again;
  struct pollfd ready;
  wg_endpoint_t to;
  wg_datagram_t one;
  int fds = open_fds(), fd, i;
  int32_t bind = open_bind(&port);
  for (i = 0; i < 2; i++) {
    struct sockaddr_in6 address;
    socklen_t len = sizeof address;
    fd = wg_udp_peek_fd(bind, families[i].family);
    CHECK(fd >= 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    CHECK_EQ(address.sin6_family, i == 0 ? AF_INET : AF_INET6);
    CHECK_EQ(ntohs(address.sin6_port), port);
  }
  again = port;
  CHECK_EQ(wg_udp_reopen(bind, &again), WG_OK);
  CHECK_EQ(again, port);

  /* They can be waited for. */
  to = at("127.0.0.1", port);
  one = datagram("x", &to);
  ready.fd = wg_udp_peek_fd(bind, WG_IPV4);
  ready.events = POLLIN;
  CHECK_EQ(poll(&ready, 1, 0), 0);
  CHECK_EQ(wg_udp_send(bind, &one, 1, NULL), 1);
  CHECK_EQ(poll(&ready, 1, 60000), 1);
  memset(&one, 0, sizeof one);
  CHECK_EQ(wg_udp_recv(bind, WG_IPV4, &one, 1, 0), 1);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
  CHECK_EQ(open_fds(), fds);
}

static void an_apps_own_socket(void) {
  static const int owners[] = {WG_FD_TAKE, WG_FD_DUP};
  struct room room = make_room(100);
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  int i, pair[2], fds = open_fds();
  for (i = 0; i < 2; i++) {
    uint16_t port = 1;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    int32_t handle;
    wg_endpoint_t to;
    wg_datagram_t one;
    CHECK(fd >= 0);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    CHECK_FAILS(wg_udp_adopt(fd, WG_FD_TAKE, NULL, &port), WG_ERR_INVALID, "not bound");
    CHECK(is_open(fd) && !is_nonblocking(fd) && port == 1);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_EQ(bind(fd, (struct sockaddr *)&address, len), 0);
    CHECK_FAILS(wg_udp_adopt(fd, 0, NULL, &port), WG_ERR_INVALID, "fd_ownership is 0");
    handle = wg_udp_adopt(fd, (uint32_t)owners[i], NULL, &port);
    CHECK(handle > 0);
    CHECK_EQ(is_open(fd), owners[i] == WG_FD_DUP);
    to = at("127.0.0.1", port);
    one = datagram("x", &to);
    CHECK_EQ(wg_udp_send(handle, &one, 1, NULL), 1);
    receive(handle, WG_IPV4, &room, 1, 1);
    check_is(&room.datagrams[0], "x");
    CHECK_FAILS(wg_udp_recv(handle, WG_IPV6, room.datagrams, 1, -1), WG_ERR_UNSUPPORTED, "no IPv6 socket");
    CHECK_EQ(wg_udp_peek_fd(handle, WG_IPV6), WG_ERR_UNSUPPORTED);
    CHECK_EQ(wg_udp_set_interface(handle, WG_IPV6, 0, 0), WG_ERR_UNSUPPORTED);
    CHECK_EQ(wg_udp_reopen(handle, NULL), WG_ERR_UNSUPPORTED);
    to = at("[::1]", port);
    CHECK_FAILS(wg_udp_send(handle, &one, 1, NULL), WG_ERR_UNSUPPORTED, "no IPv6 socket");
    CHECK_EQ(wg_udp_close(handle), WG_OK);
    if (owners[i] == WG_FD_DUP) {
      CHECK(!is_nonblocking(fd));
      close(fd);
    }
    CHECK_EQ(open_fds(), fds);
  }
  CHECK_FAILS(wg_udp_adopt(-1, WG_FD_TAKE, NULL, NULL), WG_ERR_INVALID, "not open");
  make_pair(SOCK_DGRAM, pair);
  CHECK_FAILS(wg_udp_adopt(pair[0], WG_FD_TAKE, NULL, NULL), WG_ERR_INVALID, "not a UDP socket");
  CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
  close(pair[0]);
  close(pair[1]);
  pair[0] = socket(AF_INET, SOCK_STREAM, 0);
  CHECK_FAILS(wg_udp_adopt(pair[0], WG_FD_TAKE, NULL, NULL), WG_ERR_INVALID, "not a UDP socket");
  CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
  close(pair[0]);
  CHECK_EQ(pipe(pair), 0);
  for (i = 0; i < 2; i++) {
    CHECK_FAILS(wg_udp_adopt(pair[i], (uint32_t)owners[i], NULL, NULL), WG_ERR_INVALID, "not a UDP socket");
    CHECK(is_open(pair[i]) && !is_nonblocking(pair[i]));
    close(pair[i]);
  }
  CHECK_EQ(open_fds(), fds);
  free_room(&room);
}

struct app {
  int asked, refuse, destroyed;
};

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  struct app *app = user;
  uint16_t port = 0;
  CHECK(is_open(fd));
  CHECK(family == WG_IPV4 || family == WG_IPV6);
  CHECK_EQ(wg_udp_open(NULL, &port), WG_ERR_BUSY);
  app->asked++;
  return app->refuse;
}

static void destroy(void *user) { ((struct app *)user)->destroyed++; }

static void each_socket_is_shown_first(void) {
  wg_udp_options_t options = WG_UDP_OPTIONS_INIT;
  struct app app = {0, 1, 0};
  int32_t bind;
  uint16_t port = 0;
  options.protect = protect;
  options.user = &app;
  options.destroy = destroy;
  CHECK_FAILS(wg_udp_open(&options, &port), WG_ERR_PERMISSION, "refused the IPv4 socket");
  CHECK(app.asked == 1 && app.destroyed == 1 && port == 0);
  app.refuse = app.destroyed = app.asked = 0;
  bind = wg_udp_open(&options, &port);
  CHECK(bind > 0);
  CHECK_EQ(app.asked, 2);
  app.refuse = -1;
  CHECK_EQ(wg_udp_reopen(bind, NULL), WG_ERR_PERMISSION);
  app.refuse = 0;
  CHECK_EQ(wg_udp_reopen(bind, NULL), WG_OK);
  CHECK(app.asked == 5 && app.destroyed == 0);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
  CHECK_EQ(app.destroyed, 1);
}

static void options_are_checked(void) {
  wg_udp_options_t options = WG_UDP_OPTIONS_INIT;
  struct app app = {0, 0, 0};
  CHECK_EQ(options.struct_size, sizeof options);
  options.user = &app;
  options.destroy = destroy;
  options.flags = 4;
  CHECK_FAILS(wg_udp_open(&options, NULL), WG_ERR_INVALID, "flags is 0x4");
  CHECK_EQ(app.destroyed, 1);
  options.flags = 0;
  options.struct_size = 1;
  CHECK_FAILS(wg_udp_open(&options, NULL), WG_ERR_INVALID, "struct_size is 1");
  CHECK_EQ(app.destroyed, 1);
}

static void a_black_hole_is_no_error(void) {
  uint16_t port;
  int32_t bind = open_bind(&port);
  wg_endpoint_t v4 = at("127.0.0.1", port), v6 = at("[::1]", port);
  wg_datagram_t batch[2];
  wg_send_report_t report;
  batch[0] = datagram("x", &v4);
  batch[1] = datagram("x", &v6);
  CHECK_EQ(wg_udp_set_interface(bind, WG_IPV4, 0, 1), WG_OK);
  CHECK_EQ(wg_udp_send(bind, batch, 2, &report), 1);
  CHECK(report.sent == 1 && report.dropped == 1 && report.os_error == 0);
  CHECK(batch[0].flags == WG_DATAGRAM_DROPPED && batch[1].flags == 0);
  CHECK_EQ(wg_udp_set_interface(bind, WG_IPV4, 0, 0), WG_OK);
  CHECK_EQ(wg_udp_send(bind, batch, 2, &report), 2);
  CHECK_EQ(wg_udp_set_mark(bind, 0), WG_OK);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
}

struct work {
  int32_t bind;
  uint32_t family;
  wg_endpoint_t to;
};

/* Receives until that fails, and says how. */
static void *receive_all(void *argument) {
  struct work *work = argument;
  struct room room = make_room(64);
  int32_t count;
  do count = wg_udp_recv(work->bind, work->family, room.datagrams, MANY, -1);
  while (count >= 0);
  free_room(&room);
  return (void *)(intptr_t)count;
}

static void *send_all(void *argument) {
  struct work *work = argument;
  wg_endpoint_t to = work->to;
  wg_datagram_t batch[20];
  int32_t count;
  int i;
  for (i = 0; i < 20; i++) batch[i] = datagram("ping", &to);
  do count = wg_udp_send(work->bind, batch, 20, NULL);
  while (count >= 0);
  return (void *)(intptr_t)count;
}

static void closing_ends_every_call(void) {
  int round, i, fds = open_fds();
  for (round = 0; round < 20; round++) {
    pthread_t threads[8];
    struct work work[2];
    uint16_t port;
    int32_t bind = open_bind(&port);
    for (i = 0; i < 2; i++) {
      work[i].bind = bind;
      work[i].family = families[i].family;
      work[i].to = at(families[i].host, port);
    }
    for (i = 0; i < 4; i++) start(&threads[i], receive_all, &work[i % 2]);
    /* In every other round nothing is sent, so that all of them wait. */
    if (round % 2 == 0)
      for (i = 4; i < 8; i++) start(&threads[i], send_all, &work[i % 2]);
    sleep_ms(round % 5);
    if (round % 4 == 0) CHECK_EQ(wg_udp_reopen(bind, NULL), WG_OK);
    CHECK_EQ(wg_udp_close(bind), WG_OK);
    for (i = 0; i < (round % 2 == 0 ? 8 : 4); i++) {
      void *end;
      CHECK_EQ(pthread_join(threads[i], &end), 0);
      CHECK((intptr_t)end == WG_ERR_CLOSED || (intptr_t)end == WG_ERR_UNKNOWN_HANDLE);
    }
  }
  CHECK_EQ(open_fds(), fds);
}

/* A call that was waiting when it was closed says so. */
static void closing_is_told_apart_from_a_wrong_handle(void) {
  pthread_t thread;
  struct work work;
  void *end;
  uint16_t port;
  work.bind = open_bind(&port);
  work.family = WG_IPV6;
  start(&thread, receive_all, &work);
  sleep_ms(50);
  CHECK_EQ(wg_udp_close(work.bind), WG_OK);
  CHECK_EQ(pthread_join(thread, &end), 0);
  CHECK_EQ((intptr_t)end, WG_ERR_CLOSED);
}

int main(void) {
  ping_and_pong();
  answers_leave_from_the_address_that_was_asked();
  full_batches_pass_whole();
  what_does_not_fit_is_cut_and_said();
  what_the_system_refuses_is_flagged();
  bad_arguments_send_and_receive_nothing();
  handles_are_never_reused_nor_mixed_up();
  ports();
  descriptors_are_lent();
  an_apps_own_socket();
  each_socket_is_shown_first();
  options_are_checked();
  a_black_hole_is_no_error();
  closing_ends_every_call();
  closing_is_told_apart_from_a_wrong_handle();
  return 0;
}
