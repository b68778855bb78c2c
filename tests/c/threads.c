/* The library as a guest of the host's threads and process: signals, stacks, threads that end or are cancelled. */
#define _GNU_SOURCE
#include "check.h"

#include <sched.h>
#include <signal.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

static void wait_for(int *number, int least) {
  while (get_int(number) < least) sched_yield();
}

/* Signals: the threads of the library, those that are there only for a while included, take none of the process's. */
static const int synchronous[] = {SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};

static void check_mask(void) {
  sigset_t mask;
  int signal;
  size_t i;
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
  for (i = 0; i < sizeof synchronous / sizeof *synchronous; i++) CHECK_EQ(sigismember(&mask, synchronous[i]), 0);
  for (signal = SIGHUP; signal <= SIGUSR2; signal++) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    for (i = 0; i < sizeof synchronous / sizeof *synchronous && synchronous[i] != signal; i++) continue;
    if (i == sizeof synchronous / sizeof *synchronous) CHECK_EQ(sigismember(&mask, signal), 1);
  }
  CHECK_EQ(sigismember(&mask, SIGRTMIN), 1);
  CHECK_EQ(sigismember(&mask, SIGRTMAX), 1);
}

/* Stacks: what a callback may use. Sanitizers make its frames larger than they are. */
#define STACK (512 * 1024)

__attribute__((noinline)) static int uses_stack(void) {
  volatile char room[STACK - 4096];
  size_t i;
  int sum = 0;
  for (i = 0; i < sizeof room; i += 512) room[i] = (char)i;
  for (i = 0; i < sizeof room; i += 512) sum += room[i];
  return sum;
}

struct calls {
  pthread_t host;
  int events, lines, looked_up, written, sent;
};

static void looks(const struct calls *calls, int *count) {
  if (!pthread_equal(pthread_self(), calls->host)) {
    check_mask();
    uses_stack();
    __sync_fetch_and_add(count, 1);
  }
}

static void event(void *user, int32_t handle, const wg_event_t *event) {
  (void)handle, (void)event;
  looks(user, &((struct calls *)user)->events);
}

static void line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)handle, (void)level, (void)text;
  looks(user, &((struct calls *)user)->lines);
}

static int32_t resolve(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  (void)host, (void)capacity;
  looks(user, &((struct calls *)user)->looked_up);
  addresses[0].family = WG_IPV4;
  memcpy(addresses[0].bytes, "\300\0\2\1", 4);
  *count = 1;
  return WG_OK;
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)handle, (void)packets;
  looks(user, &((struct calls *)user)->written);
  return count;
}

static size_t sends(void *user, int32_t handle, const wg_datagram_t *datagrams, size_t count) {
  (void)handle, (void)datagrams;
  looks(user, &((struct calls *)user)->sent);
  return count;
}

#define PEER "public_key=" PUBLIC_B "\nallowed_ip=0.0.0.0/0\nendpoint="

static int32_t turn_on_with_callbacks(struct calls *calls) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_transport_t transport = WG_TRANSPORT_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  tun.write = writes;
  transport.send = sends;
  tun.user = transport.user = options.resolve_user = calls;
  options.tun = &tun;
  options.transport = &transport;
  options.resolve = resolve;
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n" PEER "vpn.example.com:51820\n");
  CHECK(handle > 0);
  return handle;
}

static void inject(int32_t handle) {
  unsigned char bytes[20];
  wg_packet_t packet = {bytes, sizeof bytes};
  make_packet(bytes, sizeof bytes, 1, 2, 0);
  CHECK_EQ(wg_tun_inject(handle, &packet, 1, NULL), WG_OK);
}

static void threads_are_guests(void) {
  struct calls calls = {0};
  int32_t handle;
  sigset_t before, after;
  int number;
  calls.host = pthread_self();
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &before), 0);
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  CHECK_EQ(wg_set_log_callback(line, &calls, NULL), WG_OK);
  handle = turn_on_with_callbacks(&calls);
  CHECK_EQ(wg_set_event_callback(handle, event, &calls, NULL), WG_OK);
  inject(handle);
  wait_for(&calls.looked_up, 1);
  wait_for(&calls.sent, 1);
  wait_for(&calls.lines, 1);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK_EQ(wg_set_log_callback(NULL, NULL, NULL), WG_OK);
  CHECK_EQ(wg_set_log_level(WG_LOG_INFO), WG_OK);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
  /* The system fills a part of a sigset_t only. */
  for (number = 1; number < NSIG; number++) CHECK_EQ(sigismember(&after, number), sigismember(&before, number));
}

/* All that an app may still call when its thread ends: a tunnel, a bind, everything. */
static void whole_life(void) {
  struct end end = turn_on(SOCK_DGRAM, "private_key=" PRIVATE_A "\n" PEER "192.0.2.1:1\n");
  char *text;
  wg_stats_t stats;
  int32_t bind = wg_udp_open(NULL, NULL);
  stats.struct_size = sizeof stats;
  CHECK(bind > 0);
  CHECK_EQ(wg_stats(end.handle, &stats), WG_OK);
  CHECK_EQ(wg_get_config(end.handle, &text), WG_OK);
  wg_free(text);
  CHECK_EQ(wg_bump_sockets(end.handle), WG_OK);
  CHECK_EQ(wg_set_config(end.handle, "listen_port=nonsense\n"), WG_ERR_INVALID);
  CHECK(wg_last_error() != NULL);
  CHECK_EQ(wg_pause(end.handle), WG_OK);
  CHECK_EQ(wg_resume(end.handle), WG_OK);
  CHECK_EQ(wg_udp_reopen(bind, NULL), WG_OK);
  CHECK_EQ(wg_udp_close(bind), WG_OK);
  turn_off(end);
}

static pthread_key_t at_end;
static int ended;

static void when_a_thread_ends(void *value) {
  struct end *end = value;
  whole_life();
  if (end->handle > 0) CHECK_EQ(wg_turn_off(end->handle), WG_OK);
  __sync_fetch_and_add(&ended, 1);
}

static void *ends_with_a_tunnel(void *argument) {
  CHECK_EQ(pthread_setspecific(at_end, argument), 0);
  whole_life(); /* all that the library keeps for a thread is there, and gone before `at_end` comes */
  return NULL;
}

static void calls_work_while_a_thread_ends(void) {
  struct end end = turn_on(SOCK_DGRAM, "");
  pthread_t thread;
  CHECK_EQ(pthread_key_create(&at_end, when_a_thread_ends), 0);
  start(&thread, ends_with_a_tunnel, &end);
  join(thread);
  CHECK_EQ(ended, 1);
  CHECK_EQ(wg_turn_off(end.handle), WG_ERR_UNKNOWN_HANDLE);
  close(end.app);
}

/* One of the library's own threads ends: what an app keeps there is given up, and cannot turn the tunnel off. */
static pthread_key_t at_their_end;
static int given_up;

static void when_their_thread_ends(void *value) {
  CHECK_EQ(wg_turn_off(*(int32_t *)value), WG_ERR_BUSY);
  __sync_fetch_and_add(&given_up, 1);
}

static int32_t keeps_something(void *user, const char *host, wg_address_t *addresses, size_t capacity, size_t *count) {
  CHECK_EQ(pthread_setspecific(at_their_end, user), 0);
  (void)host, (void)addresses, (void)capacity, (void)count;
  return WG_ERR_NOT_FOUND;
}

static void their_threads_end(void) {
  struct end other = turn_on(SOCK_DGRAM, "");
  wg_options_t options = WG_OPTIONS_INIT;
  int pair[2];
  int32_t handle;
  make_pair(SOCK_DGRAM, pair);
  CHECK_EQ(pthread_key_create(&at_their_end, when_their_thread_ends), 0);
  options.tun_fd = pair[0];
  options.resolve = keeps_something;
  options.resolve_user = &other.handle;
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n" PEER "vpn.example.com:51820\n");
  CHECK(handle > 0);
  wait_for(&given_up, 1);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  turn_off(other);
  close(pair[1]);
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* Cancelling, whatever the thread is in: it ends when the call has returned, and nothing is left behind. */
struct cancelled {
  int32_t handle, bind;
  int what, calls;
};

static void *goes_on(void *argument) {
  struct cancelled *work = argument;
  char *text, room[64];
  wg_datagram_t datagram = {0};
  datagram.data = room;
  datagram.capacity = sizeof room;
  while (work->what >= 0) {
    switch (work->what) {
    case 0: wg_bump_sockets(work->handle); break;
    case 1:
      if (wg_get_config(work->handle, &text) == WG_OK) wg_free(text);
      break;
    case 2: wg_set_config(work->handle, "fwmark=nonsense\n"); break;
    case 3: wg_pause(work->handle), wg_resume(work->handle); break;
    case 4: wg_udp_reopen(work->bind, NULL); break;
    case 5: wg_udp_recv(work->bind, WG_IPV4, &datagram, 1, 0); break;
    default: wg_turn_off(wg_turn_on(-1, "")); break;
    }
    __sync_fetch_and_add(&work->calls, 1);
    pthread_testcancel();
  }
  return NULL;
}

static void cleans_up(void *user) { __sync_fetch_and_add((int *)user, 1); }

static int cleaned_up;

static void *receives(void *argument) {
  struct cancelled *work = argument;
  char room[64];
  wg_datagram_t datagram = {0};
  datagram.data = room;
  datagram.capacity = sizeof room;
  pthread_cleanup_push(cleans_up, &cleaned_up);
  __sync_fetch_and_add(&work->calls, 1);
  wg_udp_recv(work->bind, WG_IPV4, &datagram, 1, -1);
  pthread_cleanup_pop(0);
  return NULL;
}

static void cancel(void *(*body)(void *), struct cancelled *work) {
  pthread_t thread;
  void *result;
  work->calls = 0;
  start(&thread, body, work);
  wait_for(&work->calls, 1);
  CHECK_EQ(pthread_cancel(thread), 0);
  CHECK_EQ(pthread_join(thread, &result), 0);
  CHECK(result == PTHREAD_CANCELED);
}

static void callers_are_cancelled(void) {
  struct cancelled work = {0};
  struct end a, b;
  int round;
  turn_on_both(SOCK_DGRAM, &a, &b);
  work.handle = a.handle;
  work.bind = wg_udp_open(NULL, NULL);
  CHECK(work.bind > 0);
  for (round = 0; round < 10; round++)
    for (work.what = 0; work.what <= 6; work.what++) cancel(goes_on, &work);
  for (round = 1; round <= 50; round++) {
    cancel(receives, &work);
    CHECK_EQ(cleaned_up, round);
  }
  CHECK_EQ(wg_udp_close(work.bind), WG_OK);
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);
}
#else
static void callers_are_cancelled(void) {} /* sanitizers do not follow the unwinding */
#endif

/* Threads that wait for datagrams. */
#define WAITING 4
struct waiting {
  int32_t bind;
  int results[WAITING], begun, ended, thread;
};

static void *waits(void *argument) {
  struct waiting *work = argument;
  char room[64];
  wg_datagram_t datagram = {0};
  int number = __sync_fetch_and_add(&work->begun, 1);
  datagram.data = room;
  datagram.capacity = sizeof room;
#ifdef __linux__
  if (number == 0) __sync_fetch_and_add(&work->thread, (int)syscall(SYS_gettid));
#endif
  work->results[number] = wg_udp_recv(work->bind, WG_IPV4, &datagram, 1, -1);
  __sync_fetch_and_add(&work->ended, 1);
  return NULL;
}

static void start_waiting(struct waiting *work, pthread_t threads[WAITING]) {
  int i;
  work->begun = work->ended = work->thread = 0;
  for (i = 0; i < WAITING; i++) start(&threads[i], waits, work);
  wait_for(&work->begun, WAITING);
}

static void all_have_ended(struct waiting *work, pthread_t threads[WAITING], int expected) {
  int i;
  for (i = 0; i < WAITING; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
  for (i = 0; i < WAITING; i++) CHECK_EQ(work->results[i], expected);
}

/* How often a thread of this process has gone to sleep. */
static long sleeps_of(int thread) {
  char path[64], line[128];
  long count = -1;
  FILE *file;
  snprintf(path, sizeof path, "/proc/self/task/%d/status", thread);
  file = fopen(path, "r");
  if (file == NULL) return -1;
  while (fgets(line, sizeof line, file) != NULL) sscanf(line, "voluntary_ctxt_switches: %ld", &count);
  fclose(file);
  return count;
}

/* Each of them gets one of as many datagrams, in whatever order they are woken; and all hear of the end. */
static void receivers_share_and_sleep(void) {
  struct waiting work = {0};
  pthread_t threads[WAITING];
  struct sockaddr_in to = {0};
  struct timespec a_while = {3, 0};
  uint16_t port = 0;
  long before;
  int i, round, out = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK(out >= 0);
  work.bind = wg_udp_open(NULL, &port);
  CHECK(work.bind > 0);
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(port);
  for (round = 0; round < 200; round++) {
    start_waiting(&work, threads);
    if (round % 4 == 0) CHECK_EQ(wg_udp_set_mark(work.bind, 0), WG_OK);
    for (i = 0; i < WAITING; i++) CHECK_EQ(sendto(out, "x", 1, 0, (struct sockaddr *)&to, sizeof to), 1);
    all_have_ended(&work, threads, 1);
  }
  start_waiting(&work, threads);
  /* A thread that waits for nothing but datagrams is not woken. At first it may just begin to wait. */
  for (i = 0; i < 10; i++) {
    before = sleeps_of(get_int(&work.thread));
    nanosleep(&a_while, NULL);
    if (sleeps_of(get_int(&work.thread)) == before) break;
  }
  CHECK(i < 10);
  CHECK_EQ(wg_udp_close(work.bind), WG_OK);
  all_have_ended(&work, threads, WG_ERR_CLOSED);
  close(out);
}

/* After main() has returned. */
static struct end left;

static void at_exit(void) {
  whole_life();
  turn_off(left);
}

int main(void) {
  threads_are_guests();
  calls_work_while_a_thread_ends();
  their_threads_end();
  callers_are_cancelled();
  receivers_share_and_sleep();
  left = turn_on(SOCK_DGRAM, "");
  CHECK_EQ(atexit(at_exit), 0);
  return 0;
}
