/* The functions of Mullvad's libwg: packets through tunnels, every value that is returned, whose a descriptor is. */
#include "check.h"

#include "compat/mullvad.h"

#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ioctl.h>

#ifdef __linux__
#include <linux/if_tun.h>
#endif

/* The codes, as callers know them. */
enum { GENERAL = -1, INTERMITTENT = -2, INVALID_ARGUMENT = -3, UNKNOWN_TUNNEL = -4, UNKNOWN_PEER = -5, ENABLE_DAITA = -6 };

/* What sinks were told; the context is a place in here. */
static struct log {
  pthread_mutex_t lock;
  int lines[3]; /* by level */
  char all[65536];
} logs[3] = {{PTHREAD_MUTEX_INITIALIZER, {0}, ""}, {PTHREAD_MUTEX_INITIALIZER, {0}, ""}, {PTHREAD_MUTEX_INITIALIZER, {0}, ""}};

static void sink(unsigned int level, const char *msg, uint64_t context) {
  struct log *log = &logs[context];
  CHECK(context < 3);
  CHECK(level == 1 || level == 2);
  CHECK(strlen(msg) > 1 && strchr(msg, '\n') == msg + strlen(msg) - 1);
  CHECK(strstr(msg, PRIVATE_A) == NULL && strstr(msg, PRIVATE_B) == NULL && strstr(msg, PSK) == NULL);
  pthread_mutex_lock(&log->lock);
  log->lines[level]++;
  if (strlen(log->all) + strlen(msg) + 1 < sizeof log->all) strcat(log->all, msg);
  pthread_mutex_unlock(&log->lock);
}

static int lines(int log, int level) {
  int lines;
  pthread_mutex_lock(&logs[log].lock);
  lines = logs[log].lines[level];
  pthread_mutex_unlock(&logs[log].lock);
  return lines;
}

static int was_logged(int log, const char *text) {
  int found;
  pthread_mutex_lock(&logs[log].lock);
  found = strstr(logs[log].all, text) != NULL;
  pthread_mutex_unlock(&logs[log].lock);
  return found;
}

/* Text that may be changed, as the parameters say; nothing does. */
static char *changeable(const char *text) {
  static char buffer[4][1024];
  static int next;
  char *copy = buffer[next++ % 4];
  snprintf(copy, sizeof buffer[0], "%s", text);
  return copy;
}

static struct end mullvad_on(int kind, const char *settings, uint64_t context) {
  struct end end;
  int pair[2];
  make_pair(kind, pair);
  end.handle = wgTurnOn(0, changeable(settings), pair[0], sink, context);
  CHECK(end.handle > 0);
  CHECK(!is_open(pair[0])); /* taken: the library goes on with a duplicate */
  end.app = pair[1];
  return end;
}

static void mullvad_off(struct end end) {
  CHECK_EQ(wgTurnOff(end.handle), 0);
  CHECK_EQ(close(end.app), 0);
}

static int port(int32_t handle) {
  char *text = wgGetConfig(handle), *line;
  int port;
  CHECK(text != NULL);
  line = strstr(text, "listen_port=");
  CHECK(line != NULL);
  port = atoi(line + strlen("listen_port="));
  wgFreePtr(text);
  return port;
}

static void know(struct end end, const char *key, int port, int host) {
  char text[512];
  snprintf(text, sizeof text,
           "public_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.%d/32\n", key, PSK, port, host);
  CHECK_EQ(wgSetConfig(end.handle, text), 0);
}

static void mullvad_both(int kind, struct end *a, struct end *b) {
  *a = mullvad_on(kind, "private_key=" PRIVATE_A "\n", 0);
  *b = mullvad_on(kind, "private_key=" PRIVATE_B "\n", 1);
  know(*a, PUBLIC_B, port(b->handle), 2);
  know(*b, PUBLIC_A, port(a->handle), 1);
}

static void packets_pass(void) {
  static const int kinds[] = {SOCK_DGRAM, SOCK_SEQPACKET};
  int i, fds = open_fds(), tasks = threads();
  for (i = 0; i < 2; i++) {
    struct end a, b;
    char *text;
    mullvad_both(kinds[i], &a, &b);
    CHECK(a.handle != b.handle);
    check_exchange(a, b);
    text = wgGetConfig(a.handle);
    CHECK(text != NULL && strstr(text, "private_key=" PRIVATE_A "\n") == text);
    CHECK(strstr(text, "\npublic_key=" PUBLIC_B "\n") != NULL && strstr(text, "errno=") == NULL);
    mullvad_off(a);
    mullvad_off(b);
    wgFreePtr(text); /* it outlives the tunnel */
  }
  wgFreePtr(NULL);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

static void the_descriptor_is_taken(void) {
  struct end a = mullvad_on(SOCK_SEQPACKET, "", 0);
  unsigned char byte;
  CHECK_EQ(wgTurnOff(a.handle), 0);
  CHECK_EQ(recv(a.app, &byte, 1, 0), 0); /* nobody has it any more */
  close(a.app);
}

/* Fails with this code; the descriptor is closed, once, and nothing else is. */
static void check_fails(intptr_t mtu, const char *settings, int32_t code) {
  int pair[2], fds = open_fds(), errors = lines(2, 1), other;
  make_pair(SOCK_SEQPACKET, pair);
  CHECK_EQ(wgTurnOn(mtu, settings == NULL ? NULL : changeable(settings), pair[0], sink, 2), code);
  CHECK_EQ(lines(2, 1), errors + 1); /* the sink has why */
  CHECK(!is_open(pair[0]));
  CHECK_EQ(open_fds(), fds + 1);
  /* Who gets the number now keeps it. */
  other = open("/dev/null", O_RDONLY);
  CHECK_EQ(other, pair[0]);
  sleep_ms(5);
  CHECK(is_open(other));
  close(other);
  close(pair[1]);
}

static void turning_on_fails_by_code(void) {
  static const char *const bad[] = {"foo", "foo=1\n", "private_key=0\n", "listen_port=65536\n", "set=1\n", "fwmark=\xff\n"};
  struct end a = mullvad_on(SOCK_DGRAM, "", 0);
  char in_use[64];
  size_t i;
  int fd, fds = open_fds(), tasks = threads();
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) check_fails(0, bad[i], INTERMITTENT);
  CHECK(was_logged(2, "line 1"));
  check_fails(0, NULL, INVALID_ARGUMENT);
  check_fails(-1, "", INVALID_ARGUMENT);
  check_fails(575, "", INVALID_ARGUMENT);
  check_fails(65536, "", INVALID_ARGUMENT);
  check_fails(INTPTR_MAX, "", INVALID_ARGUMENT);
  check_fails(INTPTR_MIN, "", INVALID_ARGUMENT);
  snprintf(in_use, sizeof in_use, "listen_port=%d\n", port(a.handle));
  check_fails(0, in_use, INTERMITTENT);
  /* Those that are none. */
  CHECK_EQ(wgTurnOn(0, changeable(""), -1, sink, 2), INTERMITTENT);
  CHECK_EQ(wgTurnOn(1380, changeable(""), -1, sink, 2), INTERMITTENT);
  CHECK_EQ(wgTurnOn(0, changeable(""), 1 << 20, sink, 2), INTERMITTENT);
  fd = open("/tmp", O_RDONLY | O_DIRECTORY);
  CHECK_EQ(wgTurnOn(0, changeable(""), fd, sink, 2), GENERAL);
  CHECK(!is_open(fd));
  /* Nobody has to listen. */
  CHECK_EQ(wgTurnOn(0, changeable("foo"), -1, NULL, 0), INTERMITTENT);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  mullvad_off(a);
}

static void nobody_has_to_listen(void) {
  int pair[2];
  int32_t handle;
  make_pair(SOCK_DGRAM, pair);
  handle = wgTurnOn(1280, changeable("private_key=" PRIVATE_A "\n"), pair[0], NULL, 99);
  CHECK(handle > 0);
  CHECK_EQ(wgSetConfig(handle, changeable("foo")), GENERAL);
  CHECK_EQ(wgTurnOff(handle), 0);
  close(pair[1]);
}

static void codes_say_what_is_unknown(void) {
  struct end a = mullvad_on(SOCK_DGRAM, "", 0);
  uint8_t key[WG_KEY_LEN];
  int32_t unknown[] = {0, -1, 1 << 30, 0};
  size_t i;
  int errors = lines(0, 1);
  char *before = wgGetConfig(a.handle), *after;
  CHECK_EQ(wgSetConfig(a.handle, changeable("")), 0);
  CHECK_EQ(wgSetConfig(a.handle, changeable("private_key=" PRIVATE_B "\nfoo\n")), GENERAL);
  CHECK_EQ(wgSetConfig(a.handle, NULL), INVALID_ARGUMENT);
  CHECK_EQ(lines(0, 1), errors + 2);
  after = wgGetConfig(a.handle);
  CHECK_TEXT(after, before);
  wgFreePtr(before);
  wgFreePtr(after);

  key_bytes(PUBLIC_B, key);
  CHECK_EQ(wgActivateDaita(a.handle, key, changeable(""), 0, 0, 10, 10), UNKNOWN_PEER);
  CHECK_EQ(wgActivateDaita(a.handle, NULL, NULL, 0, 0, 10, 10), INVALID_ARGUMENT);
  know(a, PUBLIC_B, 1, 2);
  CHECK_EQ(wgActivateDaita(a.handle, key, changeable(""), 0, 0, 10, 10), ENABLE_DAITA);

  CHECK_EQ(wg_pause(a.handle), WG_OK);
  CHECK_EQ(wgGetSocketV4(a.handle), GENERAL);
  CHECK_EQ(wgGetSocketV6(a.handle), GENERAL);
  mullvad_off(a);

  unknown[3] = a.handle;
  for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    CHECK_EQ(wgTurnOff(unknown[i]), UNKNOWN_TUNNEL);
    CHECK_EQ(wgSetConfig(unknown[i], changeable("")), UNKNOWN_TUNNEL);
    CHECK_EQ(wgSetConfig(unknown[i], NULL), UNKNOWN_TUNNEL);
    CHECK(wgGetConfig(unknown[i]) == NULL);
    CHECK_EQ(wgGetSocketV4(unknown[i]), UNKNOWN_TUNNEL);
    CHECK_EQ(wgGetSocketV6(unknown[i]), UNKNOWN_TUNNEL);
    CHECK_EQ(wgActivateDaita(unknown[i], key, NULL, 0, 0, 0, 0), UNKNOWN_TUNNEL);
  }
}

static void each_tunnel_has_its_own_log(void) {
  struct end a, b;
  int before;
  mullvad_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  CHECK(was_logged(0, "handshake initiation") && was_logged(1, "handshake"));
  CHECK(was_logged(0, "the interface is up") && was_logged(1, "the interface is up")); /* the first line */
  CHECK(lines(0, 2) > 0 && lines(1, 2) > 0 && lines(2, 2) == 0);
  before = lines(1, 1);
  CHECK_EQ(wgSetConfig(b.handle, changeable("foo")), GENERAL);
  CHECK_EQ(lines(1, 1), before + 1);
  mullvad_off(b);
  before = lines(1, 1) + lines(1, 2);
  mullvad_off(a);
  CHECK_EQ(lines(1, 1) + lines(1, 2), before);
}

static atomic_int busy, own;

static void calls_back(unsigned int level, const char *msg, uint64_t context) {
  int32_t handle = atomic_load(&own);
  int fd;
  (void)level, (void)msg, (void)context;
  if (handle == 0) return;
  /* Nothing here waits for itself, or goes round in circles. */
  fd = open("/dev/null", O_RDONLY);
  if (wgGetConfig(handle) == NULL && wgSetConfig(handle, NULL) == GENERAL && wgTurnOff(handle) == GENERAL &&
      wgTurnOn(0, changeable(""), fd, calls_back, 0) == GENERAL && wgGetSocketV4(handle) == GENERAL && !is_open(fd))
    atomic_fetch_add(&busy, 1);
  wgRebindTunnelSocket(AF_INET, 0);
}

static void a_sink_may_call_back(void) {
  int pair[2];
  int32_t handle;
  make_pair(SOCK_DGRAM, pair);
  handle = wgTurnOn(0, changeable("private_key=" PRIVATE_A "\n"), pair[0], calls_back, 0);
  CHECK(handle > 0);
  atomic_store(&own, handle);
  CHECK_EQ(wgSetConfig(handle, changeable("foo")), GENERAL);
  CHECK(atomic_load(&busy) > 0);
  atomic_store(&own, 0);
  CHECK_EQ(wgTurnOff(handle), 0);
  close(pair[1]);
}

static void sockets_are_lent(void) {
  struct end a = mullvad_on(SOCK_DGRAM, "", 0);
  struct sockaddr_storage name;
  socklen_t len = sizeof name;
  int fd = wgGetSocketV4(a.handle);
  CHECK(fd >= 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&name, &len), 0);
  CHECK_EQ(name.ss_family, AF_INET);
  CHECK_EQ(ntohs(((struct sockaddr_in *)&name)->sin_port), port(a.handle));
  fd = wgGetSocketV6(a.handle);
  if (fd == GENERAL) {
    printf("skipped: wgGetSocketV6, as this host has no IPv6\n");
  } else {
    len = sizeof name;
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&name, &len), 0);
    CHECK_EQ(name.ss_family, AF_INET6);
  }
  mullvad_off(a);
}

static int arrives(struct end from, struct end to) {
  unsigned char packet[100], got[2000];
  struct pollfd ready = {0, POLLIN, 0};
  make_packet(packet, sizeof packet, 1, 2, 0);
  CHECK_EQ(send(from.app, packet, sizeof packet, 0), (int)sizeof packet);
  ready.fd = to.app;
  return poll(&ready, 1, 300) == 1 && recv(to.app, got, sizeof got, 0) == (int)sizeof packet;
}

static int tied_to(int32_t handle) {
#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif
  int index = -1;
  socklen_t len = sizeof index;
  CHECK_EQ(getsockopt(wgGetSocketV4(handle), SOL_SOCKET, SO_BINDTOIFINDEX, &index, &len), 0);
  return index;
}

static void all_sockets_of_a_family_are_tied(void) {
  struct end a, b;
  unsigned int lo = if_nametoindex("lo");
  int i;
  CHECK(lo > 0);
  mullvad_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  wgRebindTunnelSocket(AF_INET6, lo);
  wgRebindTunnelSocket(AF_UNIX, lo);
  CHECK_EQ(tied_to(a.handle), 0);
  wgRebindTunnelSocket(AF_INET, lo);
  CHECK(tied_to(a.handle) == (int)lo && tied_to(b.handle) == (int)lo);
  check_exchange(a, b);
  /* No index: nothing leaves. */
  wgRebindTunnelSocket(AF_INET, 0);
  CHECK(!arrives(a, b));
  wgRebindTunnelSocket(AF_INET, lo);
  for (i = 0; i < 200 && !arrives(a, b); i++) {}
  CHECK(i < 20);
  /* One that is not there changes nothing. */
  i = lines(0, 1);
  wgRebindTunnelSocket(AF_INET, 1u << 30);
  CHECK_EQ(lines(0, 1), i + 1);
  CHECK_EQ(tied_to(a.handle), (int)lo);
  mullvad_off(a);
  mullvad_off(b);
}

#ifdef __linux__
/* The last one: it leaves the network namespace. */
static void the_interface_gets_the_mtu(void) {
  struct ifreq request;
  int fd, ask;
  int32_t handle;
  memset(&request, 0, sizeof request);
  snprintf(request.ifr_name, sizeof request.ifr_name, "wgm%d", (int)getpid());
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (unshare(CLONE_NEWNET) != 0 || (fd = open("/dev/net/tun", O_RDWR)) < 0 || ioctl(fd, TUNSETIFF, &request) != 0) {
    printf("skipped: the MTU of a TUN, as none can be made here: %s\n", strerror(errno));
    return;
  }
  ask = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK_EQ(ioctl(ask, SIOCGIFMTU, &request), 0);
  CHECK_EQ(request.ifr_mtu, 1500);
  handle = wgTurnOn(1380, changeable(""), dup(fd), sink, 0);
  CHECK(handle > 0);
  CHECK_EQ(ioctl(ask, SIOCGIFMTU, &request), 0);
  CHECK_EQ(request.ifr_mtu, 1380);
  CHECK_EQ(wgTurnOff(handle), 0);
  handle = wgTurnOn(0, changeable(""), dup(fd), sink, 0);
  CHECK(handle > 0);
  CHECK_EQ(ioctl(ask, SIOCGIFMTU, &request), 0);
  CHECK_EQ(request.ifr_mtu, 1380); /* left alone */
  CHECK_EQ(wgTurnOff(handle), 0);
  close(fd);
  close(ask);
}
#endif

int main(void) {
  int fds = open_fds(), tasks = threads();
  packets_pass();
  the_descriptor_is_taken();
  turning_on_fails_by_code();
  nobody_has_to_listen();
  codes_say_what_is_unknown();
  each_tunnel_has_its_own_log();
  a_sink_may_call_back();
  sockets_are_lent();
  all_sockets_of_a_family_are_tied();
#ifdef __linux__
  the_interface_gets_the_mtu();
#endif
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
