/* What peers and a slow app can make a userspace network keep, and that the numbers say so. */
#include "net.h"

static struct nets nets;

static wg_memory_usage_t usage(int32_t handle) {
  wg_memory_usage_t usage = WG_MEMORY_USAGE_INIT;
  CHECK_EQ(wg_memory_usage(handle, &usage), WG_OK);
  CHECK_EQ(usage.total, usage.buffers + usage.staged + usage.peers + usage.network);
  return usage;
}

enum { MEMORY = 4 << 20, CONNECTIONS = 8 };

/* b has so much memory for all connections, and may have so many, or 0 for as many as usual. */
static void turn_on_with_limits(size_t memory, uint32_t connections) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  char text[512];
  nets = turn_nets_on();
  CHECK_EQ(wg_turn_off(nets.b), WG_OK);
  net.addresses = "10.9.0.2";
  net.memory_limit = memory;
  net.max_connections = connections;
  options.net = &net;
  snprintf(text, sizeof text,
           "private_key=" PRIVATE_B "\npublic_key=" PUBLIC_A "\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.1/32\n",
           listen_port(nets.a));
  nets.b = wg_turn_on_with(&options, text);
  CHECK(nets.b > 0);
  snprintf(text, sizeof text, "public_key=" PUBLIC_B "\nendpoint=127.0.0.1:%d\n", listen_port(nets.b));
  CHECK_EQ(wg_set_config(nets.a, text), WG_OK);
}

/* What byte is at a place of a stream. */
static unsigned char byte_at(size_t stream, size_t place) {
  return (unsigned char)(stream * 31 + place * 7 + place / 251);
}

/* Writes on until nothing is taken for a while. */
static void fill(int fd, size_t stream, size_t *written) {
  static unsigned char block[10007];
  struct pollfd ready = {0, POLLOUT, 0};
  ready.fd = fd;
  while (poll(&ready, 1, 200) == 1) {
    size_t i;
    ssize_t sent;
    for (i = 0; i < sizeof block; i++) block[i] = byte_at(stream, *written + i);
    sent = send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
    CHECK(sent > 0 || errno == EAGAIN);
    if (sent > 0) *written += (size_t)sent;
    CHECK(usage(nets.b).network <= MEMORY);
  }
}

/* Whoever writes waits, and nothing is lost. */
static void an_app_that_does_not_read_takes_no_more(void) {
  int listener = listen_at(nets.b, "tcp", ":80"), clients[CONNECTIONS], servers[CONNECTIONS], i, tries;
  static unsigned char block[65536];
  size_t written[CONNECTIONS] = {0};
  for (i = 0; i < CONNECTIONS; i++) {
    clients[i] = dial(nets.a, "tcp", "10.9.0.2:80");
    servers[i] = accept_from(nets.b, listener, NULL);
  }
  CHECK_EQ(usage(nets.b).network, 0);
  /* On a slow machine, what is written may take longer to arrive. */
  do
    for (i = 0; i < CONNECTIONS; i++) fill(clients[i], (size_t)i, &written[i]);
  while (usage(nets.b).network <= MEMORY / 8);
  CHECK(usage(nets.a).network > 0);
  for (i = 0; i < CONNECTIONS; i++) {
    size_t got = 0;
    CHECK_EQ(shutdown(clients[i], SHUT_WR), 0);
    for (;;) {
      ssize_t len, k;
      wait_readable(servers[i]);
      len = read(servers[i], block, sizeof block);
      CHECK(len >= 0);
      if (len == 0) break;
      for (k = 0; k < len; k++) CHECK_EQ(block[k], byte_at((size_t)i, got + (size_t)k));
      got += (size_t)len;
    }
    CHECK_EQ(got, written[i]);
    close(clients[i]);
    close(servers[i]);
  }
  for (tries = 0; tries < TRIES && usage(nets.b).network + usage(nets.a).network > 0; tries++) sleep_ms(1);
  CHECK_EQ(usage(nets.b).network, 0);
  CHECK_EQ(usage(nets.a).network, 0);
  close(listener);
}

/* Datagrams that nobody reads are dropped: they take a quarter of the memory at most. */
static void datagrams_that_are_not_read_are_dropped(void) {
  int listener = listen_at(nets.b, "udp", ":80"), client = dial(nets.a, "udp", "10.9.0.2:80"), server, i;
  static char block[1300];
  CHECK_EQ(send(client, block, sizeof block, 0), sizeof block);
  server = accept_from(nets.b, listener, NULL);
  for (i = 0; i < 5000 || usage(nets.b).network == 0; i++) {
    CHECK_EQ(send(client, block, sizeof block, 0), sizeof block);
    CHECK(usage(nets.b).network <= MEMORY / 4);
  }
  close(server);
  close(client);
  close(listener);
  for (i = 0; i < TRIES && usage(nets.b).network > 0; i++) sleep_ms(1);
  CHECK_EQ(usage(nets.b).network, 0);
}

/* Numbers of connections that nobody decides about. */
static uint64_t first, last;
static int asked;

static uint32_t holds(void *user, int32_t handle, const wg_net_connection_t *connection) {
  (void)user, (void)handle;
  if (asked == 0) first = connection->id;
  last = connection->id;
  __atomic_add_fetch(&asked, 1, __ATOMIC_SEQ_CST);
  return WG_NET_HOLD;
}

static int32_t client_of_many(int number) {
  char target[32];
  int32_t fd = -1;
  snprintf(target, sizeof target, "192.0.2.%d:%d", number % 250, 1000 + number);
  CHECK_EQ(wg_net_dial(nets.a, "udp", target, LONG, &fd), WG_OK);
  CHECK_EQ(send(fd, "x", 1, 0), 1);
  return fd;
}

static void wait_asked(int count) {
  int tries;
  for (tries = 0; get_int(&asked) < count; tries++) {
    CHECK(tries < TRIES);
    sleep_ms(1);
  }
}

/* Only so many wait for a decision, the youngest. */
static void decisions_are_not_waited_for_in_any_number(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  int32_t listener = -1, fd;
  int i;
  options.dialled = holds;
  options.hold_ms = 10 * LONG; /* however slow the machine is */
  CHECK_EQ(wg_net_intercept(nets.b, &options, &listener), WG_OK);
  for (i = 0; i < 4200; i++) {
    close(client_of_many(i));
    if (i % 50 == 49) wait_asked(i + 1);
  }
  CHECK(usage(nets.b).network < 4200 * 200);
  CHECK_FAILS(wg_net_answer(nets.b, first, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "waits for an answer");
  CHECK_FAILS(wg_net_answer(nets.b, last - 4096, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "waits for an answer");
  CHECK_EQ(wg_net_answer(nets.b, last - 4095, WG_NET_ACCEPT), WG_OK);
  fd = accept_from(nets.b, listener, NULL);
  close(fd);
  CHECK_EQ(wg_net_answer(nets.b, last, WG_NET_IGNORE), WG_OK);
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
  close(listener);
  for (i = 0; i < TRIES && usage(nets.b).network > 0; i++) sleep_ms(1);
  CHECK_EQ(usage(nets.b).network, 0);
}

/* Nor for any time. */
static void decisions_are_not_waited_for_for_ever(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  int32_t listener = -1, fd;
  options.dialled = holds;
  options.hold_ms = 1;
  asked = 0;
  CHECK_EQ(wg_net_intercept(nets.b, &options, &listener), WG_OK);
  fd = client_of_many(1);
  wait_asked(1);
  sleep_ms(20);
  CHECK_FAILS(wg_net_answer(nets.b, last, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "waits for an answer");
  close(fd);
  CHECK_EQ(wg_net_dial(nets.a, "tcp", "192.0.2.1:80", 200, &fd), WG_ERR_TIMED_OUT);
  CHECK_FAILS(wg_net_answer(nets.b, last, WG_NET_ACCEPT), WG_ERR_NOT_FOUND, "waits for an answer");
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
  close(listener);
}

static void there_may_be_no_memory(void) {
  int32_t fd = -1;
  int listener;
  turn_on_with_limits(1, 0);
  listener = listen_at(nets.b, "tcp", ":80");
  CHECK_FAILS(wg_net_dial(nets.b, "tcp", "10.9.0.1:80", LONG, &fd), WG_ERR_RESOURCES, "10.9.0.1:80");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:80", LONG, &fd), WG_ERR_REFUSED, "10.9.0.2:80");
  CHECK_EQ(fd, -1);
  close(listener);
  turn_nets_off(nets);
}

static void only_so_many_connections(void) {
  int32_t fd = -1;
  int listener, client, server, tries;
  turn_on_with_limits(0, 1);
  listener = listen_at(nets.b, "tcp", ":80");
  client = dial(nets.a, "tcp", "10.9.0.2:80");
  server = accept_from(nets.b, listener, NULL);
  CHECK_FAILS(wg_net_dial(nets.b, "tcp", "10.9.0.1:80", LONG, &fd), WG_ERR_RESOURCES, "10.9.0.1:80");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:80", LONG, &fd), WG_ERR_REFUSED, "10.9.0.2:80");
  check_sent(client, server, "the one that there is");
  CHECK_EQ(fd, -1);
  close(client);
  close(server);
  for (tries = 0; wg_net_dial(nets.a, "tcp", "10.9.0.2:80", LONG, &fd) != WG_OK; tries++) {
    CHECK(tries < TRIES);
    sleep_ms(1);
  }
  close(fd);
  close(listener);
  turn_nets_off(nets);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  turn_on_with_limits(MEMORY, 0);
  an_app_that_does_not_read_takes_no_more();
  datagrams_that_are_not_read_are_dropped();
  decisions_are_not_waited_for_in_any_number();
  decisions_are_not_waited_for_for_ever();
  turn_nets_off(nets);
  there_may_be_no_memory();
  only_so_many_connections();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
