/*
 * Connections inside a tunnel (wg_net_*), which are SOCKETs on Windows: two tunnels of this process that know each
 * other over loopback. Prints what fails and exits with 1.
 */
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <windows.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wg_embed.h"

#define CHECK(condition)                                                                                      \
  do {                                                                                                        \
    if (!(condition)) {                                                                                       \
      fprintf(stderr, "%s:%d: %s (Winsock error %d, last error \"%s\")\n", __FILE__, __LINE__, #condition,    \
              WSAGetLastError(), wg_last_error());                                                            \
      exit(1);                                                                                                \
    }                                                                                                         \
  } while (0)

#define PRIVATE_A "4041414141414141414141414141414141414141414141414141414141414141"
#define PUBLIC_A "7a1a4e709bf085ac494aba0469b9b1eda0ab1f78b16aabb79ffeda90623e8522"
#define PRIVATE_B "4042424242424242424242424242424242424242424242424242424242424242"
#define PUBLIC_B "132c442be010fbd57e72603328aa76e71fccc1503aae219327d14d9c9993f472"

/* Longer than anything takes. */
#define PATIENCE 300000

/* a is 10.9.0.1, b is 10.9.0.2 and has the rest of 10.0.0.0/8 behind it. */
static int32_t a, b;

static int32_t turn_on(const char *addresses, const char *config) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  net.addresses = addresses;
  options.net = &net;
  handle = wg_turn_on_with(&options, config);
  CHECK(handle > 0);
  return handle;
}

static void set_peer(int32_t handle, int32_t peer, const char *key, const char *allowed) {
  char config[512];
  snprintf(config, sizeof config, "public_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=%s\n", key, wg_listen_port(peer),
           allowed);
  CHECK(wg_set_config(handle, config) == WG_OK);
}

static void turn_both_on(void) {
  a = turn_on("10.9.0.1", "private_key=" PRIVATE_A "\n");
  b = turn_on("10.9.0.2", "private_key=" PRIVATE_B "\n");
  set_peer(a, b, PUBLIC_B, "10.0.0.0/8");
  set_peer(b, a, PUBLIC_A, "10.9.0.1/32");
}

static int32_t dial(const char *network, const char *address) {
  int32_t fd = -1;
  CHECK(wg_net_dial(a, network, address, PATIENCE, &fd) == WG_OK && fd != -1);
  return fd;
}

static int32_t listen_at(const char *network, const char *address) {
  int32_t fd = -1, result;
  /* One that was just closed is noticed by another thread. */
  while ((result = wg_net_listen(b, network, address, 0, &fd)) == WG_ERR_ADDR_IN_USE) Sleep(10);
  CHECK(result == WG_OK && fd != -1);
  return fd;
}

static int32_t accept_from(int32_t listener, wg_net_connection_t *connection) {
  int32_t fd = -1;
  CHECK(wg_net_accept(b, listener, PATIENCE, &fd, connection) == WG_OK && fd != -1);
  return fd;
}

static void wait_readable(int32_t fd) {
  WSAPOLLFD poll = {(SOCKET)fd, POLLRDNORM, 0};
  CHECK(WSAPoll(&poll, 1, PATIENCE) == 1);
}

static int is_readable(int32_t fd) {
  WSAPOLLFD poll = {(SOCKET)fd, POLLRDNORM, 0};
  return WSAPoll(&poll, 1, 0) == 1;
}

/* The value of recv(). */
static int take(int32_t fd, void *bytes, int len) {
  wait_readable(fd);
  return recv((SOCKET)fd, bytes, len, 0);
}

static void check_sent(int32_t from, int32_t to, const char *text) {
  char got[256];
  int len = (int)strlen(text), at = 0, more;
  CHECK(send((SOCKET)from, text, len, 0) == len);
  for (; at < len; at += more) CHECK((more = take(to, got + at, len - at)) > 0);
  CHECK(!memcmp(got, text, len));
}

static void check_end(int32_t fd) {
  char byte;
  CHECK(take(fd, &byte, 1) == 0);
}

/* A reset, and not the end. Wine takes the error away from a program that waits for it: sending fails in any case. */
static void check_reset(int32_t fd) {
  char byte;
  int got = recv((SOCKET)fd, &byte, 1, 0);
  CHECK(got == 0 || (got == SOCKET_ERROR && WSAGetLastError() == WSAECONNRESET));
  CHECK(send((SOCKET)fd, "x", 1, 0) == SOCKET_ERROR);
}

static void check_address(int32_t handle, int32_t fd, int peer, const wg_endpoint_t *expected) {
  wg_endpoint_t endpoint;
  CHECK((peer ? wg_net_peer_address : wg_net_local_address)(handle, fd, &endpoint) == WG_OK);
  CHECK(!memcmp(&endpoint, expected, sizeof endpoint));
}

static void close_both(int32_t one, int32_t other) {
  CHECK(closesocket((SOCKET)one) == 0 && closesocket((SOCKET)other) == 0);
}

static void a_connection_has_two_ends(void) {
  int32_t listener = listen_at("tcp", ":80"), fd = 77, dialled, accepted;
  wg_net_connection_t connection;
  char text[WG_ENDPOINT_TEXT_LEN];
  wg_endpoint_t endpoint;
  CHECK(!is_readable(listener));
  CHECK(wg_net_accept(b, listener, 0, &fd, NULL) == WG_ERR_TIMED_OUT && fd == 77);
  CHECK(wg_net_local_address(b, listener, &endpoint) == WG_OK && endpoint.port == 80);
  CHECK(wg_net_peer_address(b, listener, &endpoint) == WG_ERR_NOT_FOUND);
  dialled = dial("tcp", "10.9.0.2:80");
  wait_readable(listener);
  accepted = accept_from(listener, &connection);
  CHECK(connection.protocol == WG_NET_TCP);
  CHECK(wg_endpoint_format(&connection.local, text) == WG_OK && !strcmp(text, "10.9.0.2:80"));
  check_address(b, accepted, 0, &connection.local);
  check_address(b, accepted, 1, &connection.peer);
  check_address(a, dialled, 0, &connection.peer);
  check_address(a, dialled, 1, &connection.local);
  CHECK(wg_net_local_address(b, dialled, &endpoint) == WG_ERR_INVALID);
  CHECK(wg_net_local_address(b, -1, &endpoint) == WG_ERR_INVALID);
  check_sent(dialled, accepted, "there");
  check_sent(accepted, dialled, "and back");
  /* Each direction ends by itself. */
  CHECK(shutdown((SOCKET)dialled, SD_SEND) == 0);
  check_end(accepted);
  check_sent(accepted, dialled, "after the end of the other direction");
  CHECK(shutdown((SOCKET)accepted, SD_SEND) == 0);
  check_end(dialled);
  close_both(dialled, accepted);
  CHECK(closesocket((SOCKET)listener) == 0);
}

/* Several connections wait, and the listener is readable until none does. */
static void several_wait(void) {
  int32_t listener = listen_at("tcp", ":81"), dialled[40], accepted[40];
  int i;
  for (i = 0; i < 40; i++) dialled[i] = dial("tcp", "10.9.0.2:81");
  for (i = 0; i < 40; i++) {
    wait_readable(listener);
    accepted[i] = accept_from(listener, NULL);
  }
  CHECK(wg_net_accept(b, listener, 0, &accepted[0], NULL) == WG_ERR_TIMED_OUT && !is_readable(listener));
  for (i = 0; i < 40; i++) {
    check_sent(dialled[i], accepted[i], "in order");
    close_both(dialled[i], accepted[i]);
  }
  closesocket((SOCKET)listener);
}

static DWORD WINAPI writes(void *argument) {
  static char block[65536];
  int32_t fd = *(int32_t *)argument;
  int i;
  memset(block, 'x', sizeof block);
  for (i = 0; i < 128; i++) CHECK(send((SOCKET)fd, block, sizeof block, 0) == sizeof block);
  CHECK(shutdown((SOCKET)fd, SD_SEND) == 0);
  return 0;
}

static void all_bytes_arrive(void) {
  int32_t listener = listen_at("tcp", ":82"), dialled = dial("tcp", "10.9.0.2:82");
  int32_t accepted = accept_from(listener, NULL);
  HANDLE thread = CreateThread(NULL, 0, writes, &dialled, 0, NULL);
  char block[10007];
  size_t total = 0;
  int got;
  while ((got = take(accepted, block, sizeof block)) > 0) total += got;
  CHECK(got == 0 && total == 8 << 20);
  CHECK(WaitForSingleObject(thread, PATIENCE) == WAIT_OBJECT_0);
  close_both(dialled, accepted);
  closesocket((SOCKET)listener);
}

static void resets_arrive(void) {
  int32_t listener = listen_at("tcp", ":83"), dialled, accepted;
  struct linger abort = {1, 0};
  wg_endpoint_t endpoint;
  /* As the program says, */
  dialled = dial("tcp", "10.9.0.2:83");
  accepted = accept_from(listener, NULL);
  CHECK(wg_net_reset(a, dialled) == WG_OK);
  check_reset(dialled);
  check_reset(accepted);
  CHECK(wg_net_peer_address(a, dialled, &endpoint) == WG_ERR_INVALID && wg_net_reset(a, dialled) == WG_ERR_INVALID);
  close_both(dialled, accepted);
  /* as with any TCP socket, */
  dialled = dial("tcp", "10.9.0.2:83");
  accepted = accept_from(listener, NULL);
  CHECK(setsockopt((SOCKET)dialled, SOL_SOCKET, SO_LINGER, (const char *)&abort, sizeof abort) == 0);
  closesocket((SOCKET)dialled);
  check_reset(accepted);
  closesocket((SOCKET)accepted);
  /* and by one that is closed with data unread. */
  dialled = dial("tcp", "10.9.0.2:83");
  accepted = accept_from(listener, NULL);
  CHECK(send((SOCKET)dialled, "unread", 6, 0) == 6);
  wait_readable(accepted);
  closesocket((SOCKET)accepted);
  check_reset(dialled);
  closesocket((SOCKET)dialled);
  closesocket((SOCKET)listener);
}

static void datagrams_keep_their_borders(void) {
  static const int lens[] = {1, 100, 1392, 0, 1393, 9000, 2};
  static char sent[9000], got[10000];
  int32_t listener = listen_at("udp", ":53"), dialled = dial("udp", "10.9.0.2:53"), accepted;
  wg_net_connection_t connection;
  size_t i;
  memset(sent, 'u', sizeof sent);
  CHECK(send((SOCKET)dialled, "first", 5, 0) == 5);
  accepted = accept_from(listener, &connection);
  CHECK(connection.protocol == WG_NET_UDP && take(accepted, got, sizeof got) == 5);
  check_address(b, accepted, 1, &connection.peer);
  check_address(a, dialled, 0, &connection.peer);
  for (i = 0; i < sizeof lens / sizeof lens[0]; i++) {
    CHECK(send((SOCKET)dialled, sent, lens[i], 0) == lens[i]);
    CHECK(take(accepted, got, sizeof got) == lens[i] && !memcmp(got, sent, lens[i]));
    CHECK(send((SOCKET)accepted, sent, lens[i], 0) == lens[i]);
    CHECK(take(dialled, got, sizeof got) == lens[i] && !memcmp(got, sent, lens[i]));
  }
  /* A flow that is reset is at its end: an empty datagram, and no more can be sent. */
  CHECK(wg_net_reset(b, accepted) == WG_OK);
  check_end(accepted);
  CHECK(send((SOCKET)accepted, "x", 1, 0) == SOCKET_ERROR);
  close_both(dialled, accepted);
  closesocket((SOCKET)listener);
}

static void note_freed(void *user) { ++*(int *)user; }

static void others_are_intercepted(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  int32_t listener = -1, dialled, accepted;
  wg_net_connection_t connection;
  char text[WG_ENDPOINT_TEXT_LEN];
  int freed = 0;
  options.user = &freed;
  options.destroy = note_freed;
  CHECK(wg_net_intercept(b, &options, &listener) == WG_OK && listener != -1);
  dialled = dial("tcp", "10.1.2.3:443");
  wait_readable(listener);
  accepted = accept_from(listener, &connection);
  CHECK(wg_endpoint_format(&connection.local, text) == WG_OK && !strcmp(text, "10.1.2.3:443"));
  check_sent(dialled, accepted, "intercepted");
  close_both(dialled, accepted);
  dialled = dial("udp", "10.3.2.1:5353");
  CHECK(send((SOCKET)dialled, "flow", 4, 0) == 4);
  accepted = accept_from(listener, &connection);
  CHECK(connection.protocol == WG_NET_UDP);
  CHECK(wg_endpoint_format(&connection.local, text) == WG_OK && !strcmp(text, "10.3.2.1:5353"));
  check_sent(accepted, dialled, "reply");
  close_both(dialled, accepted);
  /* The end of the interception is that of its socket. */
  CHECK(!freed && wg_net_intercept(b, NULL, NULL) == WG_OK && freed == 1);
  wait_readable(listener);
  CHECK(wg_net_accept(b, listener, 0, &accepted, NULL) < 0);
  closesocket((SOCKET)listener);
}

static void names_pings_and_refusals(void) {
  wg_address_t found;
  uint64_t took = 0;
  size_t count = 0;
  int32_t fd = -1;
  CHECK(wg_net_ping(a, "10.9.0.2", 100, PATIENCE, &took) == WG_OK && took > 0);
  CHECK(wg_net_resolve(a, "10.9.0.7", 0, PATIENCE, &found, 1, &count) == WG_OK && count == 1);
  CHECK(wg_net_dial(a, "tcp", "10.9.0.2:9", PATIENCE, &fd) == WG_ERR_REFUSED && fd == -1);
  CHECK(wg_net_socks5(a, NULL, NULL, NULL, 0, NULL) == WG_ERR_UNSUPPORTED);
  CHECK(wg_net_http(a, NULL, NULL, NULL, 0, NULL) == WG_ERR_UNSUPPORTED);
  CHECK(wg_net_stop_proxy(a, 1) == WG_ERR_UNSUPPORTED);
}

static DWORD handles(void) {
  DWORD count = 0;
  CHECK(GetProcessHandleCount(GetCurrentProcess(), &count));
  return count;
}

/* Nothing is left of connections that the program has closed, also of datagrams, whose end the library looks for. */
static void handles_are_given_back(void) {
  int32_t listener = listen_at("tcp", ":84");
  DWORD before = 0;
  int i, tries;
  for (i = 0; i < 120; i++) {
    int32_t dialled = dial("tcp", "10.9.0.2:84"), accepted = accept_from(listener, NULL);
    check_sent(dialled, accepted, "x");
    close_both(dialled, accepted);
    closesocket((SOCKET)dial("udp", "10.9.0.2:84"));
    if (i == 20) before = handles();
  }
  for (tries = 0; handles() > before + 60; tries++) {
    CHECK(tries < 600);
    Sleep(100);
  }
  closesocket((SOCKET)listener);
}

/* A call that another thread makes, and that does not end by itself. */
struct wait {
  const char *name;
  int32_t fd;
  int accepts;
  volatile LONG begun;
};

static DWORD WINAPI waits(void *argument) {
  struct wait *wait = argument;
  char byte;
  int32_t fd = -1, result;
  InterlockedExchange(&wait->begun, 1);
  if (wait->accepts) {
    result = wg_net_accept(b, wait->fd, -1, &fd, NULL);
    CHECK((result == WG_ERR_CLOSED || result == WG_ERR_UNKNOWN_HANDLE) && fd == -1);
  } else {
    CHECK(recv((SOCKET)wait->fd, &byte, 1, 0) <= 0);
  }
  return 0;
}

static HANDLE start(struct wait *wait) {
  HANDLE thread = CreateThread(NULL, 0, waits, wait, 0, NULL);
  CHECK(thread != NULL);
  while (!wait->begun) Sleep(1);
  return thread;
}

static void join(HANDLE thread, const struct wait *wait) {
  if (WaitForSingleObject(thread, PATIENCE) != WAIT_OBJECT_0) {
    fprintf(stderr, "this does not end: %s\n", wait->name);
    exit(1);
  }
  CloseHandle(thread);
  CHECK(closesocket((SOCKET)wait->fd) == 0);
}

static void shutting_down_ends_a_wait(const char *network) {
  struct wait wait = {"accept, shut down", -1, 1, 0};
  HANDLE thread;
  wait.fd = listen_at(network, ":2");
  thread = start(&wait);
  Sleep(50); /* so that it is most likely in the call */
  CHECK(shutdown((SOCKET)wait.fd, SD_BOTH) == 0);
  join(thread, &wait);
}

static void turning_off_ends_all(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  struct wait all[5] = {{"accept, TCP", -1, 1, 0},
                        {"accept, UDP", -1, 1, 0},
                        {"accept, intercepted", -1, 1, 0},
                        {"recv, TCP", -1, 0, 0},
                        {"recv, UDP", -1, 0, 0}};
  HANDLE threads[5];
  int32_t listener = listen_at("tcp", ":1"), flows = listen_at("udp", ":1"), stream, flow;
  wg_endpoint_t endpoint;
  char byte;
  int i;
  stream = dial("tcp", "10.9.0.2:1");
  flow = dial("udp", "10.9.0.2:1");
  CHECK(send((SOCKET)flow, "x", 1, 0) == 1);
  all[0].fd = listener;
  all[1].fd = flows;
  CHECK(wg_net_intercept(b, &options, &all[2].fd) == WG_OK);
  all[3].fd = accept_from(listener, NULL);
  all[4].fd = accept_from(flows, NULL);
  CHECK(take(all[4].fd, &byte, 1) == 1);
  for (i = 0; i < 5; i++) threads[i] = start(&all[i]);
  Sleep(50); /* so that most of them are in it */
  CHECK(wg_turn_off(b) == WG_OK);
  for (i = 0; i < 5; i++) join(threads[i], &all[i]);
  CHECK(wg_net_local_address(b, stream, &endpoint) == WG_ERR_UNKNOWN_HANDLE);
  CHECK(wg_turn_off(a) == WG_OK);
  wait_readable(stream);
  close_both(stream, flow);
}

int main(void) {
  WSADATA data;
  CHECK(WSAStartup(MAKEWORD(2, 2), &data) == 0);
  turn_both_on();
  a_connection_has_two_ends();
  several_wait();
  all_bytes_arrive();
  resets_arrive();
  datagrams_keep_their_borders();
  others_are_intercepted();
  names_pings_and_refusals();
  handles_are_given_back();
  shutting_down_ends_a_wait("tcp");
  shutting_down_ends_a_wait("udp");
  turning_off_ends_all();
  puts("ok: connections inside a tunnel");
  return 0;
}
