/* The functions of wireguard-android's libwg-go.so, called as by its own C: tests/jni/check.sh builds and runs this. */
#include "check.h"
#include "compat/android.h"

#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/syscall.h>

/* The library's close() comes here, too: how often was this number closed? */
static _Atomic int watched = -1, closed;
int close(int fd) {
  if (fd == watched) closed++;
  return (int)syscall(SYS_close, fd);
}

static struct go_string go(const char *text) {
  struct go_string string;
  string.str = text;
  string.n = text == NULL ? 0 : (long)strlen(text);
  return string;
}

static struct go_string bytes(const char *text, long n) {
  struct go_string string = go(text);
  string.n = n;
  return string;
}

/* Turns a tunnel on over one end of a socketpair, which is closed then. */
static struct end on(struct go_string settings) {
  struct end end;
  int pair[2];
  make_pair(SOCK_DGRAM, pair);
  watched = pair[0];
  closed = 0;
  end.handle = wgTurnOn(go("tun0"), pair[0], settings);
  end.app = pair[1];
  CHECK_EQ(closed, 1);
  watched = -1;
  return end;
}

static void off(struct end end) {
  wgTurnOff(end.handle);
  CHECK_EQ(close(end.app), 0);
}

static long long value(int tunnel, const char *key) {
  char *text = wgGetConfig(tunnel), *line;
  long long number;
  CHECK(text != NULL);
  line = strstr(text, key);
  CHECK(line != NULL);
  number = atoll(line + strlen(key));
  free(text);
  return number;
}

static struct end on_with_peer(const char *private_key, const char *public_key, int port, int host) {
  char settings[512];
  struct end end;
  snprintf(settings, sizeof settings,
           "private_key=%s\nreplace_peers=true\npublic_key=%s\nallowed_ip=10.9.0.%d/32\nendpoint=127.0.0.1:%d\n",
           private_key, public_key, host, port);
  end = on(go(settings));
  CHECK(end.handle >= 0);
  return end;
}

static int free_port(void) {
  struct sockaddr_in address;
  socklen_t len = sizeof address;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  memset(&address, 0, sizeof address);
  address.sin_family = AF_INET;
  CHECK_EQ(bind(fd, (struct sockaddr *)&address, len), 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &len), 0);
  CHECK_EQ(close(fd), 0);
  return ntohs(address.sin_port);
}

static void check_socket(int fd, int family, long long port) {
  struct sockaddr_storage address;
  socklen_t len = sizeof address;
  int type = 0;
  CHECK(fd >= 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&address, &len), 0);
  CHECK_EQ(address.ss_family, family);
  CHECK_EQ(ntohs(((struct sockaddr_in *)&address)->sin_port), port); /* at the same place in both */
  len = sizeof type;
  CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len), 0);
  CHECK_EQ(type, SOCK_DGRAM);
}

static void packets_pass(void) {
  char settings[256], *text;
  int port_a = free_port();
  struct end a, b;
  snprintf(settings, sizeof settings,
           "private_key=" PRIVATE_A "\nlisten_port=%d\npublic_key=" PUBLIC_B "\nallowed_ip=10.9.0.2/32\n", port_a);
  a = on(go(settings));
  b = on_with_peer(PRIVATE_B, PUBLIC_A, port_a, 1);
  CHECK_EQ(a.handle, 0);
  CHECK_EQ(b.handle, 1);
  check_passes(b.app, a.app, 2, 1, 30);
  check_passes(a.app, b.app, 1, 2, 30);
  text = wgGetConfig(b.handle);
  CHECK(strstr(text, "private_key=" PRIVATE_B "\n") == text);
  CHECK(strstr(text, "\npublic_key=" PUBLIC_A "\n") != NULL);
  CHECK(strstr(text, "\nallowed_ip=10.9.0.1/32\n") != NULL);
  CHECK(strstr(text, "errno=") == NULL);
  CHECK_EQ(text[strlen(text) - 1], '\n');
  CHECK(value(b.handle, "\nrx_bytes=") > 0 && value(b.handle, "\ntx_bytes=") > 0);
  CHECK(value(b.handle, "\nlast_handshake_time_sec=") > 1600000000);
  check_socket(wgGetSocketV4(a.handle), AF_INET, port_a);
  check_socket(wgGetSocketV4(b.handle), AF_INET, value(b.handle, "\nlisten_port="));
  if (wgGetSocketV6(b.handle) >= 0) /* where the host has IPv6 */
    check_socket(wgGetSocketV6(b.handle), AF_INET6, value(b.handle, "\nlisten_port="));
  off(a);
  off(b);
  CHECK(strstr(text, PRIVATE_B) != NULL); /* it outlives the tunnel */
  free(text);
}

/* What an app does not ask for here, but gets: peers stay where they were configured to be. */
static void peers_stay(void) {
  struct end peer = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_B "\n"), us, roaming;
  int old = listen_port(peer.handle), new = free_port();
  char text[64], *config;
  us = on_with_peer(PRIVATE_A, PUBLIC_B, old, 2);
  CHECK_EQ(wg_set_config(peer.handle, "public_key=" PUBLIC_A "\nallowed_ip=10.9.0.1/32\n"), WG_OK);
  check_passes(us.app, peer.app, 1, 2, 6);
  snprintf(text, sizeof text, "listen_port=%d\n", new);
  CHECK_EQ(wg_set_config(peer.handle, text), WG_OK);
  check_passes(peer.app, us.app, 2, 1, 6);
  CHECK_EQ(value(us.handle, "\nendpoint=127.0.0.1:"), old);
  off(us);

  /* A tunnel of the library's own follows its peer: so this can be told apart. */
  roaming = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  add_peer(roaming, PUBLIC_B, new, 2);
  CHECK_EQ(wg_set_config(peer.handle, "public_key=" PUBLIC_A "\npreshared_key=" PSK "\n"), WG_OK);
  check_passes(roaming.app, peer.app, 1, 2, 6);
  snprintf(text, sizeof text, "listen_port=%d\n", old);
  CHECK_EQ(wg_set_config(peer.handle, text), WG_OK);
  check_passes(peer.app, roaming.app, 2, 1, 6);
  config = get(roaming.handle);
  snprintf(text, sizeof text, "\nendpoint=127.0.0.1:%d\n", old);
  CHECK(strstr(config, text) != NULL);
  wg_free(config);
  turn_off(roaming);
  turn_off(peer);
}

static void the_lowest_free_number_is_given(void) {
  struct end first = on(go("")), second = on(go("")), third;
  CHECK_EQ(first.handle, 0);
  CHECK_EQ(second.handle, 1);
  off(first);
  CHECK(wgGetConfig(0) == NULL);
  first = on(go(""));
  CHECK_EQ(first.handle, 0);
  third = on(go(""));
  CHECK_EQ(third.handle, 2);
  off(second);
  off(first);
  off(third);
}

static void unknown_numbers_are_harmless(void) {
  static const int unknown[] = {0, 1, -1, 12345, INT_MIN, INT_MAX};
  size_t i;
  for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    CHECK(wgGetConfig(unknown[i]) == NULL);
    CHECK_EQ(wgGetSocketV4(unknown[i]), -1);
    CHECK_EQ(wgGetSocketV6(unknown[i]), -1);
    wgTurnOff(unknown[i]);
  }
}

static void a_refused_descriptor_is_closed_once(void) {
  static const char *const bad[] = {"foo", "foo=1\n", "listen_port=65536\n", "private_key=" PRIVATE_A "00\n",
                                    "set=1\nfwmark=0\n", "public_key=" PUBLIC_B "\nallowed_ip=10.0.0.0/33\n",
                                    "fwmark=\xff\xfe\n", "public_key=" PUBLIC_B "\nendpoint=example.com:1\n"};
  struct end refused;
  int fds = open_fds(), tasks = threads(), pair[2], fd;
  size_t i;
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    refused = on(go(bad[i]));
    CHECK_EQ(refused.handle, -1);
    CHECK_EQ(close(refused.app), 0);
    CHECK_EQ(open_fds(), fds);
    check_threads(tasks);
  }
  refused = on(bytes("fwmark=0\n\0fwmark=1\n", 19));
  CHECK_EQ(refused.handle, -1);
  CHECK(strstr(wg_last_error(), "zero byte") != NULL);
  close(refused.app);
  refused = on(bytes(NULL, 7));
  CHECK_EQ(refused.handle, -1);
  close(refused.app);
  refused = on(bytes("fwmark=0\n", -1));
  CHECK_EQ(refused.handle, -1);
  close(refused.app);
  make_pair(SOCK_DGRAM, pair);
  CHECK_EQ(wgTurnOn(bytes("a\0b", 3), pair[0], go("")), -1);
  CHECK(!is_open(pair[0]));
  close(pair[1]);
  make_pair(SOCK_STREAM, pair);
  CHECK_EQ(wgTurnOn(go("tun0"), pair[0], go("")), -1);
  CHECK(!is_open(pair[0]));
  CHECK_EQ(wgTurnOn(go("tun0"), pair[0], go("")), -1);
  close(pair[1]);
  fd = open("/tmp", O_RDONLY | O_DIRECTORY);
  CHECK_EQ(wgTurnOn(go("tun0"), fd, go("")), -1);
  CHECK(!is_open(fd));
  CHECK_EQ(wgTurnOn(go("tun0"), -1, go("")), -1);
  CHECK_EQ(wgTurnOn(go("tun0"), INT_MIN, go("")), -1);
  CHECK_EQ(wgTurnOn(go("tun0"), INT_MAX, go("")), -1);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

static _Atomic int told;

static void line(void *user, int32_t handle, int32_t level, const char *text) {
  CHECK(user == NULL);
  if (handle == 0 && level == WG_LOG_ERROR && strstr(text, "listen_port") != NULL) told++;
}

/* On Android, its own log says it. */
static void the_log_says_why(void) {
  struct end refused;
  CHECK_EQ(wg_set_log_callback(line, NULL, NULL), WG_OK);
  refused = on(go("listen_port=65536\n"));
  CHECK_EQ(refused.handle, -1);
  CHECK_EQ(told, 1);
  CHECK_EQ(wg_set_log_callback(NULL, NULL, NULL), WG_OK);
  CHECK_EQ(close(refused.app), 0);
}

static void text_ends_where_it_says(void) {
  struct end end = on(bytes("fwmark=0\nthis is not read", 9));
  CHECK_EQ(end.handle, 0);
  off(end);
  end = on(bytes(NULL, 0));
  CHECK_EQ(end.handle, 0);
  off(end);
}

static void versions_are_told(void) {
  char *version = wgVersion();
  CHECK_TEXT(version, wg_version_string());
  free(version);
}

enum { WORKERS = 4, ROUNDS = 50 };
static _Atomic int taken[WORKERS];

static void *turns_on_and_off(void *unused) {
  int i, pair[2], tunnel;
  (void)unused;
  for (i = 0; i < ROUNDS; i++) {
    make_pair(SOCK_DGRAM, pair);
    tunnel = wgTurnOn(go("tun0"), pair[0], go(""));
    CHECK(tunnel >= 0 && tunnel < WORKERS); /* as there are never more */
    CHECK_EQ(taken[tunnel]++, 0);
    free(wgGetConfig(tunnel));
    free(wgGetConfig((tunnel + 1) % WORKERS)); /* which may be going away just now */
    taken[tunnel]--;
    wgTurnOff(tunnel);
    CHECK_EQ(close(pair[1]), 0);
  }
  return NULL;
}

static void threads_do_not_meet(void) {
  pthread_t workers[WORKERS];
  int i, fds = open_fds(), tasks = threads();
  for (i = 0; i < WORKERS; i++) start(&workers[i], turns_on_and_off, NULL);
  for (i = 0; i < WORKERS; i++) join(workers[i]);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

/* What malloc() has given out. AddressSanitizer's does not tell, but looks for leaks at the end. */
static size_t allocated(void) {
#ifdef __GLIBC__
  return mallinfo2().uordblks;
#else
  return 0;
#endif
}

static void cycles_leave_nothing(void) {
  static const char settings[] =
      "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B
      "\nallowed_ip=10.9.0.2/32\nendpoint=127.0.0.1:9\npersistent_keepalive_interval=25\n";
  size_t before = 0;
  int i;
  for (i = 0; i <= 1000; i++) {
    struct end good = on(go(settings)), bad = on(go("no line"));
    CHECK_EQ(good.handle, 0);
    CHECK_EQ(bad.handle, -1);
    free(wgGetConfig(good.handle));
    off(good);
    CHECK_EQ(close(bad.app), 0);
    if (i == 500) before = allocated();
  }
  /* Threads keep a little for later, sometimes. What is forgotten once a cycle, be it a byte, takes twice as much. */
  CHECK(allocated() < before + 500 * 16);
}

int main(void) {
  int fds, tasks;
  free(wgVersion());
  fds = open_fds();
  tasks = threads();
  versions_are_told();
  unknown_numbers_are_harmless();
  packets_pass();
  peers_stay();
  the_lowest_free_number_is_given();
  text_ends_where_it_says();
  the_log_says_why();
  a_refused_descriptor_is_closed_once();
  threads_do_not_meet();
  cycles_leave_nothing();
  unknown_numbers_are_harmless();
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
