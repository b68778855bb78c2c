/* A child of fork(): what its parent has is out of its reach, whatever its parent's threads were doing, and it can have
 * tunnels of its own. */
#include "check.h"

#include <sched.h>
#include <sys/wait.h>

#define ROUNDS 20

/* Threads that keep locks busy. A child may find a sanitizer's own locks taken. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BUSY 0
#else
#define BUSY 2
#endif

static int32_t a, b, bind_; /* of the parent */
static int over, calls;

static void line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle, (void)level, (void)text;
  __sync_fetch_and_add(&calls, 1);
}

#define REFUSED(call) CHECK_FAILS(call, WG_ERR_FORKED, "was forked from")
#define INSIDE(call) REFUSED(call)
#include "calls.h"

static void is_out_of_reach(int32_t handle) {
  int given_up = 0;
  call_with_handle(handle, &given_up);
  CHECK_EQ(given_up, 2);
}

static void wait_for_child(pid_t child) {
  int status = 0;
  CHECK(child > 0);
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

/* With what there is to be done at the end. */
static void leave(void) {
#ifdef __SANITIZE_ADDRESS__
  _exit(0); /* What the threads had that are not here looks like leaks. */
#else
  exit(0);
#endif
}

static void is_a_grandchild(int32_t mine) {
  struct end end;
  alarm(60); /* An alarm is not inherited. */
  is_out_of_reach(a);
  is_out_of_reach(mine);
  end = turn_on(SOCK_DGRAM, "");
  CHECK(end.handle > mine);
  turn_off(end);
  leave();
}

static void is_a_child(int has_a_child) {
  struct end mine, other;
  int before;
  alarm(60);
  is_out_of_reach(a);
  is_out_of_reach(b);
  call_with_bind(bind_);
#ifdef WG_EMBED_CONTROL
  call_with_manager(bind_);
#endif
  CHECK_EQ(wg_turn_off(0x7ffffff), WG_ERR_UNKNOWN_HANDLE);
  /* The log of the process is not inherited either. */
  before = get_int(&calls);
  turn_on_both(SOCK_DGRAM, &mine, &other);
  check_exchange(mine, other);
  CHECK_EQ(get_int(&calls), before);
  CHECK_EQ(wg_set_log_callback(line, NULL, NULL), WG_OK);
  turn_off(turn_on(SOCK_DGRAM, ""));
  CHECK(get_int(&calls) > before);
  CHECK_EQ(wg_set_log_callback(NULL, NULL, NULL), WG_OK);
  if (has_a_child) {
    pid_t child = fork();
    if (child == 0) is_a_grandchild(mine.handle);
    wait_for_child(child);
    check_exchange(mine, other);
  }
  turn_off(mine);
  turn_off(other);
  leave();
}

/* A child has copies of the sockets; those that its parent has closed since must not take what is for the parent. */
static void the_parent_renews_its_sockets(struct end a, struct end b) {
  int ends[2], i;
  char byte;
  pid_t child;
  CHECK_EQ(pipe(ends), 0);
  child = fork();
  if (child == 0) {
    close(ends[1]);
    _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
  }
  close(ends[0]);
  for (i = 0; i < 5; i++) {
    CHECK_EQ(wg_bump_sockets(a.handle), WG_OK);
    CHECK_EQ(wg_bump_sockets(b.handle), WG_OK);
    check_exchange(a, b);
  }
  close(ends[1]);
  wait_for_child(child);
}

/* Keeps all locks busy. */
static void *is_busy(void *argument) {
  while (!get_int(&over)) {
    char *text;
    int32_t bind = wg_udp_open(NULL, NULL);
    CHECK(bind > 0);
    CHECK_EQ(wg_udp_reopen(bind, NULL), WG_OK);
    CHECK_EQ(wg_get_config(b, &text), WG_OK);
    wg_free(text);
    CHECK_EQ(wg_set_event_callback(a, takes_events, NULL, NULL), WG_OK);
    CHECK_EQ(wg_set_log_callback(line, NULL, NULL), WG_OK);
    CHECK_EQ(wg_udp_close(bind), WG_OK);
  }
  return argument;
}

int main(void) {
  struct end ends[2];
  pthread_t threads[2];
  int i;
  CHECK_EQ(wg_set_log_level(WG_LOG_DEBUG), WG_OK);
  turn_on_both(SOCK_DGRAM, &ends[0], &ends[1]);
  a = ends[0].handle;
  b = ends[1].handle;
  bind_ = wg_udp_open(NULL, NULL);
  CHECK(bind_ > 0);
  check_exchange(ends[0], ends[1]);
  the_parent_renews_its_sockets(ends[0], ends[1]);
  for (i = 0; i < BUSY; i++) start(&threads[i], is_busy, NULL);
  for (i = 0; i < ROUNDS; i++) {
    pid_t child = fork();
    if (child == 0) is_a_child(i % 3 == 0);
    wait_for_child(child);
    check_passes(ends[0].app, ends[1].app, 1, 2, 3);
    check_passes(ends[1].app, ends[0].app, 2, 1, 3);
  }
  __sync_fetch_and_add(&over, 1);
  for (i = 0; i < BUSY; i++) join(threads[i]);
  check_exchange(ends[0], ends[1]);
  CHECK_EQ(counter(ends[0], "in_replayed"), 0);
  CHECK_EQ(counter(ends[1], "in_replayed"), 0);
  CHECK_EQ(wg_udp_close(bind_), WG_OK);
  turn_off(ends[0]);
  turn_off(ends[1]);
  return 0;
}
