/* wg_turn_off() with a userspace network: every wait ends, every descriptor sees the end, and nothing is left. */
#include "net.h"

static struct nets nets;

/* A call that another thread makes, and does not return from by itself. */
struct waits {
  const char *name;
  void (*call)(void);
  int begun;
};

static int listener, flows, intercepted, connection, sockets;

/* A thread that comes too late does not know the handle any more. */
static void check_ended(wg_result_t result) { CHECK(result == WG_ERR_CLOSED || result == WG_ERR_UNKNOWN_HANDLE); }

static void waits_in_dial(void) {
  int32_t fd = -1;
  check_ended(wg_net_dial(nets.b, "tcp", "10.9.7.7:1", -1, &fd));
  CHECK_EQ(fd, -1);
}

static void waits_for_a_name(void) {
  wg_address_t found;
  size_t count;
  check_ended(wg_net_resolve(nets.b, "a.test", 0, -1, &found, 1, &count));
}

static void waits_for_a_reply(void) { check_ended(wg_net_ping(nets.b, "10.9.7.7", 1, -1, NULL)); }

static void waits_in_accept(int from) {
  int32_t fd = -1;
  check_ended(wg_net_accept(nets.b, from, -1, &fd, NULL));
  CHECK_EQ(fd, -1);
}

static void waits_for_a_connection(void) { waits_in_accept(listener); }
static void waits_for_a_flow(void) { waits_in_accept(flows); }
static void waits_for_what_is_intercepted(void) { waits_in_accept(intercepted); }

static void waits_in_read(void) {
  char byte;
  CHECK(read(connection, &byte, 1) <= 0);
}

static void waits_in_recv(void) {
  char byte;
  CHECK(recv(sockets, &byte, 1, 0) <= 0);
}

static struct waits waits[] = {
    {"dial", waits_in_dial, 0},
    {"resolve", waits_for_a_name, 0},
    {"ping", waits_for_a_reply, 0},
    {"accept", waits_for_a_connection, 0},
    {"accept, UDP", waits_for_a_flow, 0},
    {"accept, intercepted", waits_for_what_is_intercepted, 0},
    {"read", waits_in_read, 0},
    {"recv", waits_in_recv, 0},
};

enum { WAITS = sizeof waits / sizeof waits[0] };

static void *does(void *argument) {
  struct waits *what = argument;
  __atomic_store_n(&what->begun, 1, __ATOMIC_SEQ_CST);
  what->call();
  return NULL;
}

/* b with a DNS server that does not exist. */
static void turn_both_on(void) {
  char text[512];
  nets = turn_nets_on();
  CHECK_EQ(wg_turn_off(nets.b), WG_OK);
  snprintf(text, sizeof text,
           "private_key=" PRIVATE_B "\npublic_key=" PUBLIC_A "\nendpoint=127.0.0.1:%d\nallowed_ip=10.9.0.1/32\n" SILENT,
           listen_port(nets.a));
  nets.b = turn_net_on("10.9.0.2", "10.9.8.8", text);
  snprintf(text, sizeof text, "public_key=" PUBLIC_B "\nendpoint=127.0.0.1:%d\n", listen_port(nets.b));
  CHECK_EQ(wg_set_config(nets.a, text), WG_OK);
}

static void every_wait_ends(int pauses) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  pthread_t waiting[WAITS];
  int i, theirs, client, second;
  turn_both_on();
  listener = listen_at(nets.b, "tcp", ":1");
  flows = listen_at(nets.b, "udp", ":1");
  CHECK_EQ(wg_net_intercept(nets.b, &options, &intercepted), WG_OK);
  client = dial(nets.a, "tcp", "10.9.0.2:1");
  connection = accept_from(nets.b, listener, NULL);
  check_sent(client, connection, "x");
  sockets = dial(nets.b, "udp", "10.9.0.1:1");
  second = listen_at(nets.b, "tcp", ":2");
  theirs = dial(nets.a, "tcp", "10.9.0.2:2"); /* nobody accepts it */
  if (pauses) CHECK_EQ(wg_pause(nets.b), WG_OK);
  for (i = 0; i < WAITS; i++) start(&waiting[i], does, &waits[i]);
  for (i = 0; i < WAITS; i++)
    while (!get_int(&waits[i].begun)) sleep_ms(1);
  sleep_ms(30); /* so that most of them are in it */
  CHECK_EQ(wg_turn_off(nets.b), WG_OK);
  for (i = 0; i < WAITS; i++) {
    join(waiting[i]);
    waits[i].begun = 0;
  }
  /* All of them are at their end, and the caller's to close. */
  wait_gone(connection);
  wait_gone(sockets);
  wait_gone(listener);
  wait_gone(flows);
  wait_gone(intercepted);
  close(second);
  CHECK(send(connection, "x", 1, MSG_NOSIGNAL) == -1);
  close(connection);
  close(sockets);
  close(listener);
  close(flows);
  close(intercepted);
  if (!pauses) {
    /* The peer was told. */
    wait_gone(client);
    wait_gone(theirs);
  }
  CHECK_EQ(wg_turn_off(nets.a), WG_OK);
  wait_gone(client);
  wait_gone(theirs);
  close(client);
  close(theirs);
}

static void calls_that_come_later_are_refused(void) {
  int32_t fd = -1;
  CHECK_EQ(wg_net_dial(nets.b, "tcp", "10.9.0.1:1", 0, &fd), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_net_listen(nets.b, "tcp", ":1", 0, &fd), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_ERR_UNKNOWN_HANDLE);
  CHECK_EQ(fd, -1);
}

/* On and off, with connections that are open. */
static void nothing_is_left(void) {
  int round, fds = open_fds(), tasks = threads();
  for (round = 0; round < 20; round++) {
    int kept[2], i;
    nets = turn_nets_on();
    kept[0] = listen_at(nets.b, "tcp", ":1");
    kept[1] = dial(nets.a, "tcp", "10.9.0.2:1");
    turn_nets_off(nets);
    for (i = 0; i < 2; i++) {
      wait_gone(kept[i]);
      close(kept[i]);
    }
    CHECK_EQ(open_fds(), fds);
    check_threads(tasks);
  }
}

static int ended;

static void on_event(void *user, int32_t handle, const wg_event_t *event) {
  (void)user, (void)handle;
  if (event->kind == WG_EVENT_ENDED) __atomic_store_n(&ended, 1, __ATOMIC_SEQ_CST);
}

/* That a network ends because its tunnel is turned off is no event, and no error in the log. */
static void on_line(void *user, int32_t handle, int32_t level, const char *text) {
  (void)user, (void)handle;
  if (level > WG_LOG_WARN) return;
  fprintf(stderr, "a line: %s\n", text);
  exit(1);
}

static void turning_off_is_no_failure(void) {
  wg_net_options_t net = WG_NET_OPTIONS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle;
  int round;
  net.addresses = "10.9.0.9";
  options.net = &net;
  options.event = on_event;
  options.log = on_line;
  for (round = 0; round < 20; round++) {
    handle = wg_turn_on_with(&options, "");
    CHECK(handle > 0);
    CHECK_EQ(wg_turn_off(handle), WG_OK);
  }
  CHECK_EQ(get_int(&ended), 0);
}

int main(void) {
  every_wait_ends(0);
  calls_that_come_later_are_refused();
  every_wait_ends(1);
  nothing_is_left();
  turning_off_is_no_failure();
  return 0;
}
