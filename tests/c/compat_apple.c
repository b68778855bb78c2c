/* The functions of wireguard-apple: packets through tunnels, every value that is returned, whose a descriptor is. */
#include "check.h"

#include "compat/apple.h"
#include "no_randomness.h"

#include <stdatomic.h>
#include <sys/stat.h>

/* Darwin's, whatever the system. */
#define DARWIN_EIO 5
#define DARWIN_EINVAL 22
#define DARWIN_EADDRINUSE 48
#define DARWIN_EPROTO 100

/* What the logger was told. */
struct log {
  pthread_mutex_t lock;
  int lines[2]; /* by level */
  char last[2][512];
  char all[65536];
};

static struct log the_log = {PTHREAD_MUTEX_INITIALIZER, {0, 0}, {"", ""}, ""};

static void logger(void *context, int level, const char *msg) {
  struct log *log = context;
  CHECK(level == 0 || level == 1);
  CHECK(msg[0] != '\0' && msg[strlen(msg) - 1] != '\n');
  CHECK(strstr(msg, PRIVATE_A) == NULL && strstr(msg, PRIVATE_B) == NULL && strstr(msg, PSK) == NULL);
  pthread_mutex_lock(&log->lock);
  log->lines[level]++;
  snprintf(log->last[level], sizeof log->last[level], "%s", msg);
  if (strlen(log->all) + strlen(msg) + 2 < sizeof log->all) strcat(strcat(log->all, msg), "\n");
  pthread_mutex_unlock(&log->lock);
}

static int lines(int level) {
  int lines;
  pthread_mutex_lock(&the_log.lock);
  lines = the_log.lines[level];
  pthread_mutex_unlock(&the_log.lock);
  return lines;
}

static int was_logged(const char *text) {
  int found;
  pthread_mutex_lock(&the_log.lock);
  found = strstr(the_log.all, text) != NULL;
  pthread_mutex_unlock(&the_log.lock);
  return found;
}

/* A tunnel, our end of its packets, and the end that it has a duplicate of. */
struct apple {
  int handle, app, tun;
};

static struct apple apple_on(int kind, const char *settings) {
  struct apple end;
  int pair[2], fds;
  make_pair(kind, pair);
  fds = open_fds();
  end.handle = wgTurnOn(settings, pair[0]);
  CHECK(end.handle > 0);
  CHECK(is_open(pair[0]) && open_fds() > fds);
  end.tun = pair[0];
  end.app = pair[1];
  return end;
}

static void apple_off(struct apple end) {
  wgTurnOff(end.handle);
  CHECK(is_open(end.tun)); /* it was never the tunnel's */
  CHECK_EQ(close(end.tun), 0);
  CHECK_EQ(close(end.app), 0);
}

static char *config(int handle) {
  char *text = wgGetConfig(handle);
  CHECK(text != NULL && strstr(text, "errno=") == NULL);
  return text;
}

/* The value of the first line with this key; "" if there is none. */
static void value(int handle, const char *key, char out[128]) {
  char *text = config(handle), *line;
  size_t len = strlen(key);
  out[0] = '\0';
  for (line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
    if (strncmp(line, key, len) != 0 || line[len] != '=') continue;
    snprintf(out, 128, "%.*s", (int)strcspn(line + len + 1, "\n"), line + len + 1);
    break;
  }
  free(text); /* as the original's */
}

static int port(int handle) {
  char text[128];
  value(handle, "listen_port", text);
  CHECK(atoi(text) > 0);
  return atoi(text);
}

static void know(struct apple end, const char *key, int port, int host) {
  char text[512];
  snprintf(text, sizeof text,
           "public_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.%d/32\n", key, PSK, port, host);
  CHECK_EQ(wgSetConfig(end.handle, text), 0);
}

static void apple_both(int kind, struct apple *a, struct apple *b) {
  *a = apple_on(kind, "private_key=" PRIVATE_A "\n");
  *b = apple_on(kind, "private_key=" PRIVATE_B "\n");
  know(*a, PUBLIC_B, port(b->handle), 2);
  know(*b, PUBLIC_A, port(a->handle), 1);
}

static void exchange(struct apple a, struct apple b) {
  check_passes(a.app, b.app, 1, 2, 30);
  check_passes(b.app, a.app, 2, 1, 30);
}

static void packets_pass(void) {
  static const int kinds[] = {SOCK_DGRAM, SOCK_SEQPACKET};
  int i, fds = open_fds(), tasks = threads();
  for (i = 0; i < 2; i++) {
    struct apple a, b;
    char *text;
    apple_both(kinds[i], &a, &b);
    CHECK(a.handle != b.handle);
    exchange(a, b);
    text = config(a.handle);
    CHECK(strstr(text, "private_key=" PRIVATE_A "\n") == text);
    CHECK(strstr(text, "\npublic_key=" PUBLIC_B "\n") != NULL);
    CHECK(strstr(text, "\ntx_bytes=0\n") == NULL);
    apple_off(a);
    apple_off(b);
    free(text); /* it outlives the tunnel */
  }
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

static void the_descriptor_stays_the_callers(void) {
  struct apple a, b;
  unsigned char byte;
  apple_both(SOCK_SEQPACKET, &a, &b);
  exchange(a, b);
  /* It can go before the tunnel does. */
  CHECK_EQ(close(a.tun), 0);
  exchange(a, b);
  wgTurnOff(a.handle);
  CHECK_EQ(recv(a.app, &byte, 1, 0), 0); /* there was no other */
  close(a.app);
  /* And be used after it. */
  wgTurnOff(b.handle);
  CHECK(is_nonblocking(b.tun));
  CHECK_EQ(send(b.tun, "x", 1, 0), 1);
  CHECK_EQ(recv(b.app, &byte, 1, 0), 1);
  close(b.tun);
  close(b.app);
}

static void turning_on_fails_with_minus_one(void) {
  static const char *const bad[] = {"foo", "foo=1\n", "private_key=0\n", "listen_port=65536\n", "set=1\n", "fwmark=\xff\n"};
  struct apple a = apple_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  char in_use[64];
  size_t i;
  int pair[2], fds, tasks, errors, fd;
  make_pair(SOCK_DGRAM, pair);
  fds = open_fds();
  tasks = threads();
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    errors = lines(1);
    CHECK_EQ(wgTurnOn(bad[i], pair[0]), -1);
    CHECK_EQ(lines(1), errors + 1); /* the log has why */
  }
  CHECK(was_logged("line 1"));
  snprintf(in_use, sizeof in_use, "listen_port=%d\n", port(a.handle));
  CHECK_EQ(wgTurnOn(in_use, pair[0]), -1);
  CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
  CHECK_EQ(wgTurnOn("", -1), -1);
  CHECK_EQ(wgTurnOn("", 1 << 20), -1);
  CHECK_EQ(open_fds(), fds);
  fd = open("/tmp", O_RDONLY | O_DIRECTORY);
  CHECK_EQ(wgTurnOn("", fd), -1);
  CHECK(is_open(fd));
  close(fd);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  close(pair[0]);
  close(pair[1]);
  apple_off(a);

  /* No settings are no mistake. */
  apple_off(apple_on(SOCK_DGRAM, NULL));
  apple_off(apple_on(SOCK_DGRAM, ""));
}

static void settings_have_darwins_errors(void) {
  static const struct {
    const char *settings;
    int64_t code;
  } cases[] = {
      {NULL, 0},
      {"", 0},
      {"fwmark=0\n\n", 0},
      {"foo\n", -DARWIN_EPROTO},
      {"fwmark=0\n\nfwmark=0\n", -DARWIN_EPROTO},
      {"foo=1\n", -DARWIN_EINVAL},
      {"listen_port=x\n", -DARWIN_EINVAL},
      {"private_key=" PRIVATE_A "00\n", -DARWIN_EINVAL},
      {"public_key=" PUBLIC_B "\nendpoint=vpn.example.com:1\n", -DARWIN_EINVAL},
      {"public_key=" PUBLIC_B "\nallowed_ip=10.0.0.0/33\n", -DARWIN_EINVAL},
      {"fwmark=\xff\n", -DARWIN_EINVAL},
  };
  struct apple a = apple_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n"), b = apple_on(SOCK_DGRAM, "");
  char *before = config(a.handle), *after, *line;
  char text[256];
  size_t i;
  int tries;
  for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int errors = lines(1);
    CHECK_EQ(wgSetConfig(a.handle, cases[i].settings), cases[i].code);
    CHECK_EQ(lines(1), errors + (cases[i].code != 0));
    if (cases[i].code != 0) { /* and good lines in front of it do nothing */
      snprintf(text, sizeof text, "private_key=%s\n%s", PRIVATE_B, cases[i].settings);
      CHECK_EQ(wgSetConfig(a.handle, text), cases[i].code);
    }
    after = config(a.handle);
    CHECK_EQ(strcmp(before, after), 0);
    free(after);
  }
  snprintf(text, sizeof text, "listen_port=%d\n", port(b.handle));
  CHECK_EQ(wgSetConfig(a.handle, text), -DARWIN_EADDRINUSE);
  free(before);

  /* A line that no reader of the original takes. */
  line = malloc(70000);
  CHECK(line != NULL);
  memset(line, 'x', 70000);
  memcpy(line, "foo=", 4);
  line[69999] = '\0';
  CHECK_EQ(wgSetConfig(a.handle, line), -DARWIN_EIO);
  free(line);

  /* A tunnel that has ended. */
  apple_off(b);
  b = apple_on(SOCK_SEQPACKET, "");
  close(b.app);
  close(b.tun);
  for (tries = 0; tries < TRIES && wgSetConfig(b.handle, "") == 0; tries++) sleep_ms(5);
  CHECK_EQ(wgSetConfig(b.handle, ""), -1);
  wgTurnOff(b.handle);
  apple_off(a);
}

static void unknown_handles_are_no_error(void) {
  struct apple a = apple_on(SOCK_DGRAM, "");
  int unknown[] = {0, -1, 1 << 30, 0}, errors = lines(1);
  size_t i;
  unknown[3] = a.handle;
  apple_off(a);
  for (i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    wgTurnOff(unknown[i]);
    CHECK_EQ(wgSetConfig(unknown[i], "private_key=" PRIVATE_A "\n"), 0);
    CHECK_EQ(wgSetConfig(unknown[i], "garbage"), 0);
    CHECK(wgGetConfig(unknown[i]) == NULL);
    wgBumpSockets(unknown[i]);
    wgDisableSomeRoamingForBrokenMobileSemantics(unknown[i]);
  }
  CHECK_EQ(lines(1), errors);
}

static void the_log_has_both_levels(void) {
  static struct log other = {PTHREAD_MUTEX_INITIALIZER, {0, 0}, {"", ""}, ""};
  struct apple a, b;
  int before;
  CHECK(lines(0) > 0 && lines(1) > 0); /* all that was so far */
  /* One replaces the other. */
  wgSetLogger(&other, logger);
  before = lines(0) + lines(1);
  apple_both(SOCK_DGRAM, &a, &b);
  exchange(a, b);
  CHECK_EQ(lines(0) + lines(1), before);
  pthread_mutex_lock(&other.lock);
  CHECK(strstr(other.all, "handshake") != NULL); /* as wireguard-go's verbose lines have */
  CHECK_EQ(other.lines[1], 0);
  pthread_mutex_unlock(&other.lock);
  /* And none is none. */
  wgSetLogger(NULL, NULL);
  before = other.lines[0] + other.lines[1];
  apple_off(a);
  apple_off(b);
  CHECK_EQ(wgTurnOn("garbage", -1), -1);
  CHECK_EQ(other.lines[0] + other.lines[1], before);
  wgSetLogger(&the_log, logger);
}

static atomic_int busy;

static void calls_back(void *context, int level, const char *msg) {
  int handle = *(int *)context;
  (void)level, (void)msg;
  /* Nothing here waits for itself. */
  if (handle > 0 && wgGetConfig(handle) == NULL && wgSetConfig(handle, "") == -1 && wgTurnOn("", -1) == -1) {
    wgTurnOff(handle);
    wgBumpSockets(handle);
    wgSetLogger(NULL, NULL);
    atomic_fetch_add(&busy, 1);
  }
}

static void a_logger_may_call_back(void) {
  static int handle;
  struct apple a = apple_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
  int before;
  handle = a.handle;
  wgSetLogger(&handle, calls_back);
  CHECK_EQ(wgSetConfig(a.handle, "garbage"), -DARWIN_EPROTO);
  before = atomic_load(&busy);
  CHECK(before > 0);
  CHECK_EQ(wgSetConfig(a.handle, "garbage"), -DARWIN_EPROTO);
  CHECK(atomic_load(&busy) > before); /* it is still there, and so is the tunnel */
  wgSetLogger(&the_log, logger);
  free(config(a.handle));
  apple_off(a);
}

/* Which socket a descriptor of a tunnel is: numbers are used again. */
static ino_t socket_of(int handle) {
  struct stat stat;
  int i;
  /* It may be closed in between. */
  for (i = 0; i < TRIES && fstat(wg_peek_socket_fd4(handle), &stat) != 0; i++) sleep_ms(1);
  CHECK(i < 1000);
  return stat.st_ino;
}

static atomic_int shown, holds, refuses;

static int32_t protect(void *user, int32_t fd, uint32_t family) {
  (void)user, (void)fd, (void)family;
  atomic_fetch_add(&shown, 1);
  while (atomic_load(&holds)) sleep_ms(1);
  return atomic_load(&refuses);
}

static void sockets_are_renewed_without_waiting(void) {
  struct apple a, b;
  wg_options_t options = WG_OPTIONS_INIT;
  ino_t before;
  int i, pair[2], handle, port_before;
  apple_both(SOCK_DGRAM, &a, &b);
  exchange(a, b);
  before = socket_of(a.handle);
  port_before = port(a.handle);
  wgBumpSockets(a.handle);
  for (i = 0; i < TRIES && socket_of(a.handle) == before; i++) sleep_ms(5);
  CHECK(socket_of(a.handle) != before);
  CHECK_EQ(port(a.handle), port_before);
  exchange(a, b);
  for (i = 0; i < 200; i++) wgBumpSockets(a.handle);
  exchange(a, b);
  /* One that is turned off before it comes to that. */
  wgBumpSockets(b.handle);
  apple_off(a);
  apple_off(b);

  /* Handles are the library's own, so that an app can see it happen. */
  make_pair(SOCK_DGRAM, pair);
  options.tun_fd = pair[0];
  options.protect = protect;
  handle = wg_turn_on_with(&options, "");
  CHECK(handle > 0);
  before = socket_of(handle);
  atomic_store(&shown, 0);
  atomic_store(&holds, 1);
  wgBumpSockets(handle); /* returns, although sockets cannot be had yet */
  for (i = 0; i < TRIES && atomic_load(&shown) == 0; i++) sleep_ms(5);
  CHECK_EQ(atomic_load(&shown), 1);
  atomic_store(&holds, 0);
  for (i = 0; i < TRIES && socket_of(handle) == before; i++) sleep_ms(5);
  CHECK(socket_of(handle) != before);
  /* Refused, it is tried again. */
  before = socket_of(handle);
  atomic_store(&refuses, 1);
  wgBumpSockets(handle);
  for (i = 0; i < TRIES && !was_logged("cannot be opened"); i++) sleep_ms(5);
  CHECK(was_logged("cannot be opened"));
  CHECK(socket_of(handle) == before); /* the old ones stay meanwhile */
  atomic_store(&refuses, 0);
  for (i = 0; i < TRIES && socket_of(handle) == before; i++) sleep_ms(5);
  CHECK(socket_of(handle) != before);
  wgTurnOff(handle);
  close(pair[1]);
}

static void endpoints_stay_if_they_are_told_to(void) {
  int disable;
  for (disable = 0; disable < 2; disable++) {
    struct apple a, b;
    char before[128], after[128];
    apple_both(SOCK_DGRAM, &a, &b);
    exchange(a, b);
    if (disable) wgDisableSomeRoamingForBrokenMobileSemantics(a.handle);
    value(a.handle, "endpoint", before);
    CHECK(before[0] != '\0');
    CHECK_EQ(wgSetConfig(b.handle, "listen_port=0\n"), 0); /* another port */
    check_passes(b.app, a.app, 2, 1, 3);
    value(a.handle, "endpoint", after);
    CHECK_EQ(strcmp(before, after) == 0, disable);
    apple_off(a);
    apple_off(b);
  }
}

static void *does_everything(void *argument) {
  struct apple *end = argument;
  int i;
  for (i = 0; i < 200; i++) {
    char *text = wgGetConfig(end->handle);
    free(text);
    wgBumpSockets(end->handle);
    CHECK_EQ(wgSetConfig(end->handle, "public_key=" PUBLIC_B "\nallowed_ip=10.0.0.0/8\n"), 0); /* there or not */
    wgDisableSomeRoamingForBrokenMobileSemantics(end->handle);
    if (i == 100) wgTurnOff(end->handle);
  }
  return NULL;
}

static void any_thread_may_call(void) {
  int round, i;
  for (round = 0; round < 10; round++) {
    struct apple a = apple_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
    pthread_t threads[4];
    for (i = 0; i < 4; i++) start(&threads[i], does_everything, &a);
    for (i = 0; i < 4; i++) join(threads[i]);
    CHECK(wgGetConfig(a.handle) == NULL);
    apple_off(a);
  }
}

static void keys_are_read_and_written(void) {
  /* A pair made by `wg genkey` and `wg pubkey`. */
  static const char private[] = "IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8=";
  static const char public[] = "QKBt8tYvSmhIa88zdoMKVeasQl0ZqlMyfV3r3FUFASQ=";
  static const char *const bad64[] = {"", "x", "IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8",
                                      "IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX9=", /* bits behind the end */
                                      "IHNe13/LeN0Bn20cqGcls8y7XcIPgip/3xs5wvJWvX8==",
                                      "IHNe13/LeN0Bn20cqGcls8y7XcIPgip!3xs5wvJWvX8="};
  static const char *const bad16[] = {"", "0", PRIVATE_A "0", PRIVATE_A "00",
                                      "g041414141414141414141414141414141414141414141414141414141414141"};
  uint8_t one[WG_KEY_LEN], other[WG_KEY_LEN], untouched[WG_KEY_LEN];
  char base64[WG_KEY_LEN_BASE64], hex[WG_KEY_LEN_HEX];
  size_t i;
  CHECK(key_from_base64(one, private));
  curve25519_derive_public_key(other, one);
  key_to_base64(base64, other);
  CHECK_TEXT(base64, public);
  CHECK(key_from_hex(one, PRIVATE_A));
  key_to_hex(hex, one);
  CHECK_TEXT(hex, PRIVATE_A);
  curve25519_derive_public_key(other, one);
  key_to_hex(hex, other);
  CHECK_TEXT(hex, PUBLIC_A);
  CHECK(key_from_hex(other, "ABCDEFabcdef00000000000000000000000000000000000000000000000000ff"));
  CHECK_EQ(other[0], 0xab);
  CHECK_EQ(other[31], 0xff);

  memset(untouched, 7, sizeof untouched);
  memcpy(one, untouched, sizeof one);
  for (i = 0; i < sizeof bad64 / sizeof bad64[0]; i++) CHECK(!key_from_base64(one, bad64[i]));
  for (i = 0; i < sizeof bad16 / sizeof bad16[0]; i++) CHECK(!key_from_hex(one, bad16[i]));
  CHECK_EQ(memcmp(one, untouched, sizeof one), 0);

  CHECK(key_eq(one, untouched) && key_eq(one, one));
  for (i = 0; i < WG_KEY_LEN; i++) {
    one[i] ^= 0x80;
    CHECK(!key_eq(one, untouched));
    one[i] ^= 0x80;
  }
  curve25519_generate_private_key(one);
  curve25519_generate_private_key(other);
  CHECK(!key_eq(one, other));
  CHECK_EQ(one[0] & 7, 0);
  CHECK_EQ(one[31] & 0xc0, 0x40);
}

static void the_version_is_the_callers_to_free(void) {
  const char *one = wgVersion(), *other = wgVersion();
  CHECK_TEXT(one, wg_version_string());
  CHECK(one != other);
  free((void *)one);
  free((void *)other);
}

/* A key that is not random is all zeros, and a tunnel with it has no key. */
static void a_key_without_randomness_is_none(void) {
  static const uint8_t zeros[WG_KEY_LEN];
  uint8_t key[WG_KEY_LEN];
  char settings[128] = "private_key=", *text;
  struct apple a;
  memset(key, 7, sizeof key);
  key_to_hex(settings + strlen(settings), zeros);
  a = apple_on(SOCK_DGRAM, strcat(settings, "\n"));
  text = config(a.handle);
  CHECK(strstr(text, "private_key=") == NULL);
  free(text);
  apple_off(a);
  if (!break_the_generator()) return;
  curve25519_generate_private_key(key);
  CHECK_EQ(memcmp(key, zeros, sizeof key), 0);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  wgSetLogger(&the_log, logger);
  packets_pass();
  the_descriptor_stays_the_callers();
  turning_on_fails_with_minus_one();
  settings_have_darwins_errors();
  unknown_handles_are_no_error();
  the_log_has_both_levels();
  a_logger_may_call_back();
  sockets_are_renewed_without_waiting();
  endpoints_stay_if_they_are_told_to();
  any_thread_may_call();
  keys_are_read_and_written();
  the_version_is_the_callers_to_free();
  wgSetLogger(NULL, NULL);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  a_key_without_randomness_is_none();
  return 0;
}
