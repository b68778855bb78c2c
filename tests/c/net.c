/* Connections inside a tunnel, from C: dial, listen, accept; their ends; datagrams; names and echo requests. */
#include "net.h"

#include <strings.h>

static struct nets nets;

/* A connection between the networks. */
struct pair {
  int dialled, accepted;
};

static struct pair connect_at(int listener, const char *address) {
  struct pair pair;
  pair.dialled = dial(nets.a, "tcp", address);
  pair.accepted = accept_from(nets.b, listener, NULL);
  return pair;
}

static void close_pair(struct pair pair) {
  close(pair.dialled);
  close(pair.accepted);
}

static void a_connection_has_two_ends(const char *network, const char *target, const char *from) {
  int listener = listen_at(nets.b, "tcp", ":80");
  struct pollfd ready = {0, POLLIN, 0};
  wg_net_connection_t connection;
  struct pair pair;
  int32_t fd = 77;
  ready.fd = listener;
  CHECK_EQ(poll(&ready, 1, 0), 0);
  CHECK_FAILS(wg_net_accept(nets.b, listener, 0, &fd, NULL), WG_ERR_TIMED_OUT, "time limit");
  CHECK_EQ(fd, 77);
  pair.dialled = dial(nets.a, network, target);
  CHECK_EQ(poll(&ready, 1, LONG), 1);
  pair.accepted = accept_from(nets.b, listener, &connection);
  CHECK_EQ(poll(&ready, 1, 0), 0);
  CHECK_EQ(connection.protocol, WG_NET_TCP);
  CHECK_EQ(connection.id, 0);
  CHECK_TEXT(text_of(&connection.local), target);
  CHECK_TEXT(text_of(&connection.local), local_of(nets.b, pair.accepted));
  CHECK_TEXT(text_of(&connection.peer), peer_of_fd(nets.b, pair.accepted));
  CHECK_TEXT(text_of(&connection.peer), local_of(nets.a, pair.dialled));
  CHECK_TEXT(peer_of_fd(nets.a, pair.dialled), target);
  CHECK(strncmp(text_of(&connection.peer), from, strlen(from)) == 0);
  CHECK_EQ(port_of(nets.b, listener), 80);
  check_sent(pair.dialled, pair.accepted, "there");
  check_sent(pair.accepted, pair.dialled, "and back");
  /* Addresses belong to connections, whatever number a descriptor has. */
  fd = fcntl(pair.dialled, F_DUPFD_CLOEXEC, 500);
  CHECK_TEXT(peer_of_fd(nets.a, fd), target);
  close(fd);
  close_pair(pair);
  close(listener);
}

/* Each direction ends by itself. */
static void half_of_a_connection_ends(int listener) {
  struct pair pair = connect_at(listener, "10.9.0.2:81");
  CHECK_EQ(shutdown(pair.dialled, SHUT_WR), 0);
  check_end(pair.accepted);
  check_sent(pair.accepted, pair.dialled, "after the end of the other direction");
  CHECK_EQ(shutdown(pair.accepted, SHUT_WR), 0);
  check_end(pair.dialled);
  close_pair(pair);
}

/* What was written arrives though the writer has closed. */
static void what_was_written_arrives(int listener) {
  static char sent[300000], got[sizeof sent];
  struct pair pair = connect_at(listener, "10.9.0.2:81");
  size_t i;
  for (i = 0; i < sizeof sent; i++) sent[i] = (char)(i * 7 + i / 251);
  write_all(pair.dialled, sent, sizeof sent);
  close(pair.dialled);
  read_all(pair.accepted, got, sizeof got);
  CHECK_EQ(memcmp(sent, got, sizeof sent), 0);
  check_end(pair.accepted);
  close(pair.accepted);
}

/* A side that closes with data unread resets: the other one gets an error, and not the end. */
static void a_reset_is_an_error(int listener) {
  struct pair pair = connect_at(listener, "10.9.0.2:81");
  char byte;
  ssize_t got;
  write_all(pair.dialled, "unread", 6);
  wait_readable(pair.accepted);
  close(pair.accepted);
  wait_readable(pair.dialled);
  got = read(pair.dialled, &byte, 1);
  CHECK(got == -1 && errno == ECONNRESET);
  close(pair.dialled);
}

struct flood {
  int fd;
  size_t written;
};

static void *writes_all(void *argument) {
  struct flood *flood = argument;
  static char block[65536];
  size_t left = 8 << 20;
  while (left > 0) {
    size_t len = left < sizeof block ? left : sizeof block;
    write_all(flood->fd, block, len);
    __atomic_fetch_add(&flood->written, len, __ATOMIC_SEQ_CST);
    left -= len;
  }
  CHECK_EQ(shutdown(flood->fd, SHUT_WR), 0);
  return NULL;
}

/* Nothing is lost if the reader is slow, and the writer waits. */
static void a_slow_reader_gets_everything(int listener) {
  struct pair pair = connect_at(listener, "10.9.0.2:81");
  struct flood flood = {0, 0};
  pthread_t thread;
  static char block[10007];
  size_t total = 0;
  flood.fd = pair.dialled;
  start(&thread, writes_all, &flood);
  for (;;) {
    ssize_t got;
    wait_readable(pair.accepted);
    got = read(pair.accepted, block, sizeof block);
    CHECK(got >= 0);
    if (got == 0) break;
    total += (size_t)got;
  }
  join(thread);
  CHECK_EQ(total, 8 << 20);
  close_pair(pair);
}

static void datagrams_keep_their_borders(const char *target, const char *listen_address) {
  static const size_t lens[] = {1, 100, 1392, 0, 1393, 9000, 2};
  static unsigned char sent[9000], got[10000];
  int listener = listen_at(nets.b, "udp", listen_address), client, server;
  wg_net_connection_t connection;
  size_t i, k;
  CHECK_EQ(port_of(nets.b, listener), 53);
  client = dial(nets.a, "udp", target);
  CHECK(!is_readable(listener));
  CHECK_EQ(send(client, "first", 5, 0), 5);
  wait_readable(listener);
  server = accept_from(nets.b, listener, &connection);
  CHECK_EQ(connection.protocol, WG_NET_UDP);
  CHECK_TEXT(text_of(&connection.local), target);
  CHECK_TEXT(text_of(&connection.peer), local_of(nets.a, client));
  CHECK_TEXT(peer_of_fd(nets.b, server), local_of(nets.a, client));
  CHECK_TEXT(peer_of_fd(nets.a, client), target);
  CHECK(!is_readable(listener));
  wait_readable(server);
  CHECK_EQ(recv(server, got, sizeof got, 0), 5);
  for (i = 0; i < sizeof lens / sizeof lens[0]; i++) {
    /* A datagram without contents looks like the end to recv(). */
    if (lens[i] == 0) continue;
    for (k = 0; k < lens[i]; k++) sent[k] = (unsigned char)(k + i);
    CHECK_EQ(send(client, sent, lens[i], 0), lens[i]);
    wait_readable(server);
    CHECK_EQ(recv(server, got, sizeof got, 0), lens[i]);
    CHECK_EQ(memcmp(sent, got, lens[i]), 0);
    CHECK_EQ(send(server, sent, lens[i], 0), lens[i]);
    wait_readable(client);
    CHECK_EQ(recv(client, got, sizeof got, 0), lens[i]);
    CHECK_EQ(memcmp(sent, got, lens[i]), 0);
  }
  CHECK_EQ(send(client, "one", 3, 0), 3);
  CHECK_EQ(send(client, "three", 5, 0), 5);
  wait_readable(server);
  CHECK_EQ(recv(server, got, sizeof got, 0), 3);
  wait_readable(server);
  CHECK_EQ(recv(server, got, sizeof got, 0), 5);
  close(client);
  close(server);
  close(listener);
}

/* Each source has a descriptor of its own, and its answers go there. */
static void sources_of_datagrams_are_told_apart(void) {
  int listener = listen_at(nets.b, "udp4", "10.9.0.2:0"), clients[3], servers[3], i;
  char target[64], text[16], got[16];
  int32_t other = -1;
  snprintf(target, sizeof target, "10.9.0.2:%d", port_of(nets.b, listener));
  CHECK_FAILS(wg_net_listen(nets.b, "udp", target, 0, &other), WG_ERR_ADDR_IN_USE, "10.9.0.2");
  for (i = 0; i < 3; i++) {
    clients[i] = dial(nets.a, "udp4", target);
    snprintf(text, sizeof text, "from %d", i);
    CHECK_EQ(send(clients[i], text, strlen(text), 0), strlen(text));
    servers[i] = accept_from(nets.b, listener, NULL);
  }
  for (i = 2; i >= 0; i--) {
    memset(got, 0, sizeof got);
    snprintf(text, sizeof text, "from %d", i);
    wait_readable(servers[i]);
    CHECK(recv(servers[i], got, sizeof got - 1, 0) > 0);
    CHECK_TEXT(got, text);
    check_sent(servers[i], clients[i], "an answer");
  }
  for (i = 0; i < 3; i++) {
    close(clients[i]);
    close(servers[i]);
  }
  close(listener);
  /* The port is free again. */
  CHECK_EQ(wg_net_listen(nets.b, "udp", target, 0, &other), WG_OK);
  close(other);
}

/* Answers a question as a DNS server: "a.test" is 10.9.0.2, "six.test" fd09::2, "both.test" both; no
 * others exist. */
static void answer(int fd) {
  static const unsigned char four[] = {10, 9, 0, 2}, six[16] = {0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2};
  unsigned char packet[1500];
  ssize_t len = recv(fd, packet, sizeof packet - 64, MSG_DONTWAIT);
  int end = 12, type, found = 0, both;
  char name[64] = {0};
  if (len < 17) return;
  while (packet[end] != 0 && end + packet[end] + 5 < len && end < 60) {
    memcpy(name + strlen(name), packet + end + 1, packet[end]);
    strcat(name, ".");
    end += packet[end] + 1;
  }
  type = packet[end + 2];
  end += 5;
  packet[2] |= 0x80; /* an answer */
  packet[3] = 0x80;
  memset(packet + 6, 0, 6);
  both = strcasecmp(name, "both.test.") == 0;
  /* There is no such name. */
  if (!both && strcasecmp(name, "a.test.") != 0 && strcasecmp(name, "six.test.") != 0) packet[3] |= 3;
  if ((both || strcasecmp(name, "a.test.") == 0) && type == 1) found = 4;
  if ((both || strcasecmp(name, "six.test.") == 0) && type == 28) found = 16;
  if (found) {
    const unsigned char record[] = {0xc0, 12, 0, (unsigned char)type, 0, 1, 0, 0, 0, 60, 0, (unsigned char)found};
    packet[7] = 1;
    memcpy(packet + end, record, sizeof record);
    memcpy(packet + end + sizeof record, found == 4 ? four : six, (size_t)found);
    end += (int)sizeof record + found;
  }
  CHECK_EQ(send(fd, packet, (size_t)end, 0), end);
}

static int stop_names;

static void *serves_names(void *argument) {
  int listener = *(int *)argument, fds[64], count = 0, i;
  while (!get_int(&stop_names)) {
    int32_t fd;
    if (count < 64 && wg_net_accept(nets.b, listener, 5, &fd, NULL) == WG_OK) fds[count++] = fd;
    for (i = 0; i < count; i++) answer(fds[i]);
  }
  for (i = 0; i < count; i++) close(fds[i]);
  return NULL;
}

static void names_are_looked_up(void) {
  int listener = listen_at(nets.b, "udp", ":53"), tcp = listen_at(nets.b, "tcp", ":82");
  wg_address_t found[4];
  size_t count = 77;
  pthread_t thread;
  int32_t fd = -1;
  uint64_t took = 0;
  struct pair pair;
  start(&thread, serves_names, &listener);
  CHECK_EQ(wg_net_resolve(nets.a, "a.test", 0, LONG, found, 4, &count), WG_OK);
  CHECK(count == 1 && found[0].family == WG_IPV4 && memcmp(found[0].bytes, "\x0a\x09\0\x02", 4) == 0);
  CHECK_EQ(wg_net_resolve(nets.a, "a.test", WG_IPV4, 0, found, 4, &count), WG_OK); /* it is known */
  CHECK_EQ(wg_net_resolve(nets.a, "six.test", WG_IPV6, LONG, found, 1, &count), WG_OK);
  CHECK(count == 1 && found[0].family == WG_IPV6 && found[0].bytes[15] == 2);
  CHECK_EQ(wg_net_resolve(nets.a, "six.test", 0, LONG, NULL, 0, &count), WG_OK);
  count = 77;
  CHECK_FAILS(wg_net_resolve(nets.a, "a.test", WG_IPV6, LONG, found, 4, &count), WG_ERR_NOT_FOUND, "a.test");
  CHECK_FAILS(wg_net_resolve(nets.a, "none.test", 0, LONG, found, 4, &count), WG_ERR_NOT_FOUND, "none.test");
  CHECK_EQ(count, 77);
  CHECK_EQ(wg_net_resolve(nets.a, "192.0.2.7", 0, 0, found, 4, &count), WG_OK);
  CHECK(count == 1 && found[0].bytes[3] == 7);
  pair = connect_at(tcp, "a.test:82");
  CHECK_TEXT(peer_of_fd(nets.a, pair.dialled), "10.9.0.2:82");
  close_pair(pair);
  pair = connect_at(tcp, "six.test:82");
  CHECK_TEXT(peer_of_fd(nets.a, pair.dialled), "[fd09::2]:82");
  close_pair(pair);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp6", "a.test:82", LONG, &fd), WG_ERR_NOT_FOUND, "a.test");
  CHECK_FAILS(wg_net_dial(nets.a, "udp", "none.test:82", LONG, &fd), WG_ERR_NOT_FOUND, "none.test");
  CHECK_EQ(wg_net_ping(nets.a, "a.test", 56, LONG, &took), WG_OK);
  CHECK(took > 0 && fd == -1);
  __atomic_store_n(&stop_names, 1, __ATOMIC_SEQ_CST);
  join(thread);
  close(listener);
  close(tcp);
}

/* Of a name's addresses those are taken that the network has a family for. */
static void a_network_may_have_one_family(void) {
  int listener = listen_at(nets.b, "udp", ":53");
  pthread_t thread;
  char text[256];
  CHECK_EQ(wg_turn_off(nets.a), WG_OK);
  snprintf(text, sizeof text,
           "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\n",
           listen_port(nets.b));
  nets.a = turn_net_on("10.9.0.1", "10.9.0.2", text);
  __atomic_store_n(&stop_names, 0, __ATOMIC_SEQ_CST);
  start(&thread, serves_names, &listener);
  CHECK_EQ(wg_net_ping(nets.a, "both.test", 1, LONG, NULL), WG_OK);
  close(dial(nets.a, "udp", "both.test:9"));
  CHECK_EQ(wg_net_ping(nets.a, "six.test", 1, LONG, NULL), WG_ERR_NOT_FOUND);
  __atomic_store_n(&stop_names, 1, __ATOMIC_SEQ_CST);
  join(thread);
  close(listener);
}

static void echo_requests_are_answered(void) {
  uint64_t took = 0;
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", 0, LONG, &took), WG_OK);
  CHECK(took > 0 && took < (uint64_t)LONG * 1000000);
  CHECK_EQ(wg_net_ping(nets.a, "fd09::2", 1000, LONG, NULL), WG_OK);
  CHECK_EQ(wg_net_ping(nets.b, "10.9.0.1", 4000, LONG, NULL), WG_OK); /* in fragments */
}

/* A closed listener refuses what waits and what comes. */
static void a_listener_ends_when_it_is_closed(void) {
  int listener = listen_at(nets.b, "tcp", "10.9.0.2:83"), waiting = dial(nets.a, "tcp", "10.9.0.2:83"), tries;
  int32_t fd = -1;
  wait_readable(listener);
  close(listener);
  wait_gone(waiting);
  close(waiting);
  /* It is noticed by another thread. */
  for (tries = 0; wg_net_dial(nets.a, "tcp", "10.9.0.2:83", LONG, &fd) == WG_OK; tries++) {
    CHECK(tries < TRIES);
    close(fd);
    sleep_ms(1);
  }
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:83", LONG, &fd), WG_ERR_REFUSED, "10.9.0.2:83");
  listener = listen_at(nets.b, "tcp", "10.9.0.2:83");
  close(listener);
}

int main(void) {
  int listener, fds, tasks;
  fds = open_fds();
  tasks = threads();
  nets = turn_nets_on();
  a_connection_has_two_ends("tcp", "10.9.0.2:80", "10.9.0.1:");
  a_connection_has_two_ends("tcp6", "[fd09::2]:80", "[fd09::1]:");
  listener = listen_at(nets.b, "tcp4", ":81");
  half_of_a_connection_ends(listener);
  what_was_written_arrives(listener);
  a_reset_is_an_error(listener);
  a_slow_reader_gets_everything(listener);
  close(listener);
  datagrams_keep_their_borders("10.9.0.2:53", ":53");
  datagrams_keep_their_borders("[fd09::2]:53", "[fd09::2]:53");
  sources_of_datagrams_are_told_apart();
  names_are_looked_up();
  echo_requests_are_answered();
  a_listener_ends_when_it_is_closed();
  a_network_may_have_one_family();
  turn_nets_off(nets);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
