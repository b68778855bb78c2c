/* Tunnels: packets through them, every way in which a call fails, handles, threads, and nothing left behind. */
#include "check.h"

#include <limits.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/resource.h>

static void packets_pass(void) {
  static const int kinds[] = {SOCK_DGRAM, SOCK_SEQPACKET};
  int i;
  for (i = 0; i < 2; i++) {
    struct end a, b;
    char *text;
    turn_on_both(kinds[i], &a, &b);
    CHECK(a.handle != b.handle);
    check_exchange(a, b);
    text = get(a.handle);
    CHECK(strstr(text, "private_key=" PRIVATE_A "\n") == text);
    CHECK(strstr(text, "\npublic_key=" PUBLIC_B "\n") != NULL);
    CHECK(strstr(text, "\nallowed_ip=10.9.0.2/32\n") != NULL);
    CHECK(strstr(text, "\ntx_bytes=0\n") == NULL);
    CHECK(strstr(text, "errno=") == NULL);
    CHECK_EQ(text[strlen(text) - 1], '\n');
    turn_off(a);
    turn_off(b);
    wg_free(text); /* it outlives the tunnel */
  }
  wg_free(NULL);
}

/* Everything that takes a handle. */
static void check_unknown(int32_t handle) {
  char *const untouched = (char *)&handle;
  char *text = untouched;
  CHECK_FAILS(wg_set_config(handle, ""), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_get_config(handle, &text), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK(text == untouched);
  CHECK_FAILS(wg_network_changed(handle), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK_FAILS(wg_turn_off(handle), WG_ERR_UNKNOWN_HANDLE, "handle");
}

static void handles_are_never_reused(void) {
  struct end a = turn_on(SOCK_DGRAM, ""), b;
  static const int32_t foreign[] = {0, -1, INT32_MIN, INT32_MAX, 1 << 20, WG_ERR_UNKNOWN_HANDLE};
  size_t i;
  turn_off(a);
  check_unknown(a.handle);
  b = turn_on(SOCK_DGRAM, "");
  CHECK(b.handle > a.handle);
  check_unknown(a.handle);
  for (i = 0; i < sizeof foreign / sizeof foreign[0]; i++) check_unknown(foreign[i]);
  CHECK(listen_port(b.handle) > 0);
  turn_off(b);
}

static void bad_text_is_refused_whole(void) {
  static const struct {
    const char *uapi;
    int32_t code;
    const char *text;
  } bad[] = {
      {NULL, WG_ERR_NULL, "uapi is NULL"},
      {"fwmark=0\nfoo\n", WG_ERR_PROTOCOL, "line 2"},
      {"foo=1\n", WG_ERR_INVALID, "foo"},
      {"set=1\nfwmark=0\n", WG_ERR_INVALID, "line 1"},
      {"listen_port=65536\n", WG_ERR_INVALID, "listen_port"},
      {"private_key=" PRIVATE_A "00\n", WG_ERR_INVALID, "private_key"},
      {"public_key=" PUBLIC_B "\nallowed_ip=10.0.0.0/33\n", WG_ERR_INVALID, "allowed_ip"},
      {"fwmark=0\n\nfwmark=0\n", WG_ERR_PROTOCOL, "empty line"},
      {"fwmark=\xff\xfe\n", WG_ERR_INVALID, "UTF-8"},
  };
  struct end a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\npublic_key=" PUBLIC_B "\n");
  char *before = get(a.handle), *after, mixed[1024];
  int pair[2], fds = open_fds(), tasks = threads();
  size_t i;
  make_pair(SOCK_DGRAM, pair);
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    CHECK_FAILS(wg_set_config(a.handle, bad[i].uapi), bad[i].code, bad[i].text);
    CHECK(strstr(wg_last_error(), PRIVATE_A) == NULL);
    CHECK_FAILS(wg_turn_on(pair[0], bad[i].uapi), bad[i].code, bad[i].text);
    CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
    CHECK_EQ(open_fds(), fds + 2);
    CHECK_EQ(threads(), tasks);
    if (bad[i].uapi != NULL && bad[i].code != WG_ERR_NULL) {
      /* Good lines in front of it do nothing. */
      snprintf(mixed, sizeof mixed, "private_key=%s\nreplace_peers=true\n%s", PRIVATE_B, bad[i].uapi);
      CHECK_EQ(wg_set_config(a.handle, mixed), bad[i].code);
    }
    after = get(a.handle);
    CHECK_EQ(strcmp(before, after), 0);
    wg_free(after);
  }
  CHECK_FAILS(wg_get_config(a.handle, NULL), WG_ERR_NULL, "out is NULL");
  wg_free(before);
  close(pair[0]);
  close(pair[1]);
  turn_off(a);
}

static void check_fd_refused(int fd, int32_t code, const char *text) {
  int fds = open_fds(), tasks = threads(), flags = fcntl(fd, F_GETFL);
  int owner;
  for (owner = WG_FD_TAKE; owner <= WG_FD_DUP; owner++) {
    wg_options_t options = WG_OPTIONS_INIT;
    options.tun_fd = fd;
    options.fd_ownership = (uint32_t)owner;
    CHECK_FAILS(wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n"), code, text);
  }
  CHECK_EQ(open_fds(), fds);
  CHECK_EQ(threads(), tasks);
  CHECK_EQ(fcntl(fd, F_GETFL), flags); /* also if it is not open */
}

static void bad_descriptors_stay_the_callers(void) {
  char name[] = "/tmp/wg-embed-test-XXXXXX";
  int pair[2], fd;
  check_fd_refused(-1, WG_ERR_INVALID, "not open");
  check_fd_refused(INT_MIN, WG_ERR_INVALID, "not open");
  check_fd_refused(INT_MAX, WG_ERR_INVALID, "not open");
  make_pair(SOCK_DGRAM, pair);
  close(pair[0]);
  close(pair[1]);
  check_fd_refused(pair[0], WG_ERR_INVALID, "not open");

  fd = mkstemp(name);
  CHECK(fd >= 0);
  check_fd_refused(fd, WG_ERR_UNSUPPORTED, "packets apart");
  CHECK_EQ(write(fd, "x", 1), 1);
  close(fd);
  unlink(name);

  make_pair(SOCK_STREAM, pair);
  check_fd_refused(pair[0], WG_ERR_UNSUPPORTED, "SOCK_DGRAM");
  CHECK_EQ(send(pair[0], "x", 1, 0), 1);
  close(pair[0]);
  close(pair[1]);

  CHECK_EQ(pipe(pair), 0);
  check_fd_refused(pair[0], WG_ERR_UNSUPPORTED, "packets apart");
  close(pair[0]);
  close(pair[1]);

  fd = open("/dev/null", O_RDWR);
  check_fd_refused(fd, WG_ERR_PERMISSION, "cannot wait"); /* as epoll says */
  close(fd);
  fd = open("/tmp", O_RDONLY | O_DIRECTORY);
  check_fd_refused(fd, WG_ERR_UNSUPPORTED, "packets apart");
  close(fd);
}

static void a_port_in_use_leaves_everything_as_it_was(void) {
  struct end a = turn_on(SOCK_DGRAM, ""), b = turn_on(SOCK_DGRAM, "");
  int port_b = listen_port(b.handle), pair[2];
  char uapi[128];
  int32_t handle;
  snprintf(uapi, sizeof uapi, "listen_port=%d\n", listen_port(a.handle));
  make_pair(SOCK_DGRAM, pair);
  CHECK_FAILS(wg_turn_on(pair[0], uapi), WG_ERR_ADDR_IN_USE, "port");
  CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
  CHECK_FAILS(wg_set_config(b.handle, uapi), WG_ERR_ADDR_IN_USE, "port");
  CHECK_EQ(listen_port(b.handle), port_b);
  turn_off(a);
  /* The same descriptor, on the port that is free now. */
  handle = wg_turn_on(pair[0], uapi);
  CHECK(handle > 0);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  close(pair[1]);
  turn_off(b);
}

static void a_descriptor_is_taken_or_duplicated(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  struct end a, b;
  int pair[2], fds = open_fds();
  unsigned char byte;

  /* Taken: that number is closed at once, and the description when the tunnel is off. */
  make_pair(SOCK_SEQPACKET, pair);
  a.handle = wg_turn_on(pair[0], "private_key=" PRIVATE_A "\n");
  a.app = pair[1];
  CHECK(a.handle > 0 && !is_open(pair[0]));
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK_EQ(recv(a.app, &byte, 1, 0), 0); /* its end */
  close(a.app);

  /* Duplicated: the caller may close its own, or keep it longer than the tunnel. */
  turn_on_both(SOCK_SEQPACKET, &a, &b);
  turn_off(a);
  make_pair(SOCK_SEQPACKET, pair);
  options.tun_fd = pair[0];
  options.fd_ownership = WG_FD_DUP;
  a.handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  a.app = pair[1];
  CHECK(a.handle > 0 && is_open(pair[0]));
  close(pair[0]);
  add_peer(a, PUBLIC_B, listen_port(b.handle), 2);
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);

  make_pair(SOCK_SEQPACKET, pair);
  options.tun_fd = pair[0];
  a.handle = wg_turn_on_with(&options, "");
  CHECK(a.handle > 0);
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  CHECK(is_open(pair[0]));
  CHECK_EQ(send(pair[0], "x", 1, 0), 1);
  CHECK_EQ(recv(pair[1], &byte, 1, 0), 1);
  close(pair[0]);
  close(pair[1]);
  CHECK_EQ(open_fds(), fds);
}

static void nothing_is_left_behind_when_descriptors_run_out(void) {
  struct rlimit limit, low;
  int pair[2], fds, tasks = threads(), spare, failures = 0;
  int32_t handle = -1;
  make_pair(SOCK_DGRAM, pair);
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  fds = open_fds();
  for (spare = 0; handle < 0; spare++) {
    low = limit;
    low.rlim_cur = (rlim_t)(pair[1] + 1 + spare);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
    handle = wg_turn_on(pair[0], "private_key=" PRIVATE_A "\n");
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (handle < 0) {
      CHECK_EQ(handle, WG_ERR_RESOURCES);
      CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
      CHECK_EQ(open_fds(), fds);
      check_threads(tasks);
      failures++;
    }
  }
  CHECK(failures >= 4);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  close(pair[1]);
}

static void a_tunnel_that_ended_says_so(void) {
  struct end a = turn_on(SOCK_SEQPACKET, "private_key=" PRIVATE_A "\n");
  char *text;
  int i;
  close(a.app);
  for (i = 0; i < TRIES && wg_set_config(a.handle, "") == WG_OK; i++) sleep_ms(5);
  CHECK_FAILS(wg_set_config(a.handle, ""), WG_ERR_CLOSED, "has ended: ");
  text = get(a.handle);
  CHECK(strstr(text, PRIVATE_A) != NULL);
  wg_free(text);
  CHECK_EQ(wg_turn_off(a.handle), WG_OK);
  check_unknown(a.handle);
}

/* Threads. */

static void *turns_off(void *argument) {
  struct end *end = argument;
  wg_result_t *result = malloc(sizeof *result);
  CHECK(result != NULL);
  *result = wg_turn_off(end->handle);
  return result;
}

static void *reads_and_writes(void *argument) {
  struct end *end = argument;
  wg_result_t result = WG_OK;
  while (result == WG_OK) {
    char *text;
    result = wg_get_config(end->handle, &text);
    if (result == WG_OK) wg_free(text);
    if (result == WG_OK) result = wg_set_config(end->handle, "public_key=" PUBLIC_B "\nallowed_ip=10.0.0.0/8\n");
  }
  CHECK_EQ(result, WG_ERR_UNKNOWN_HANDLE);
  return NULL;
}

static void one_of_many_turns_it_off(void) {
  int round, i, fds = open_fds(), tasks = threads();
  for (round = 0; round < 20; round++) {
    struct end a = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n");
    pthread_t off[6], busy[3];
    int done = 0;
    for (i = 0; i < 3; i++) start(&busy[i], reads_and_writes, &a);
    sleep_ms(round % 4);
    for (i = 0; i < 6; i++) start(&off[i], turns_off, &a);
    for (i = 0; i < 6; i++) {
      void *result;
      CHECK_EQ(pthread_join(off[i], &result), 0);
      if (*(wg_result_t *)result == WG_OK) done++;
      else CHECK_EQ(*(wg_result_t *)result, WG_ERR_UNKNOWN_HANDLE);
      free(result);
    }
    for (i = 0; i < 3; i++) join(busy[i]);
    CHECK_EQ(done, 1);
    close(a.app);
  }
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
}

static void *has_its_own_error(void *argument) {
  (void)argument;
  CHECK_EQ(strcmp(wg_last_error(), ""), 0);
  CHECK_FAILS(wg_turn_off(-7), WG_ERR_UNKNOWN_HANDLE, "-7");
  return NULL;
}

static void errors_are_per_thread(void) {
  const char *mine;
  pthread_t thread;
  struct end a;
  CHECK_FAILS(wg_turn_off(-5), WG_ERR_UNKNOWN_HANDLE, "-5");
  mine = wg_last_error();
  start(&thread, has_its_own_error, NULL);
  join(thread);
  a = turn_on(SOCK_DGRAM, "");
  turn_off(a);
  CHECK(wg_last_error() == mine && strstr(mine, "-5") != NULL); /* success leaves it alone */
}

static long resident_kib(void) {
  FILE *file = fopen("/proc/self/statm", "r");
  long total, resident;
  CHECK(file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2);
  fclose(file);
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void two_hundred_times_on_and_off(void) {
  int i, fds = open_fds(), tasks = threads();
  long before = 0;
  for (i = 0; i < 200; i++) {
    struct end a, b;
    if (i == 50) before = resident_kib();
    turn_on_both(i % 2 ? SOCK_DGRAM : SOCK_SEQPACKET, &a, &b);
    if (i % 4 == 0) check_passes(a.app, b.app, 1, 2, 1);
    turn_off(a);
    turn_off(b);
  }
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
#ifndef __SANITIZE_ADDRESS__ /* which keeps freed memory, and looks for leaks itself */
  if (resident_kib() - before > 2048) {
    fprintf(stderr, "150 times on and off cost %ld KiB\n", resident_kib() - before);
    exit(1);
  }
#else
  (void)before;
#endif
}

int main(void) {
#ifdef __GLIBC__
  /* Else what a thread allocates and another frees stays in one of several arenas, at random: up to 2 MiB were seen. */
  mallopt(M_ARENA_MAX, 1);
#endif
  packets_pass();
  handles_are_never_reused();
  bad_text_is_refused_whole();
  bad_descriptors_stay_the_callers();
  a_port_in_use_leaves_everything_as_it_was();
  a_descriptor_is_taken_or_duplicated();
  nothing_is_left_behind_when_descriptors_run_out();
  a_tunnel_that_ended_says_so();
  one_of_many_turns_it_off();
  errors_are_per_thread();
  two_hundred_times_on_and_off();
  return 0;
}
