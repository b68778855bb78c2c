/* What an app does wrong, and what the system lacks: each has its code, and harms nothing else. */
#include "net.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static struct nets nets;

/* Descriptors that are in the way of others. */
static int fillers[4096], filled;

static void leave_no_descriptor(int but) {
  int i;
  for (filled = 0; filled < 4096; filled++)
    if ((fillers[filled] = fcntl(0, F_DUPFD_CLOEXEC, 3)) == -1) break;
  CHECK(filled < 4096 && errno == EMFILE);
  for (i = 0; i < but; i++) close(fillers[--filled]);
}

static void give_descriptors_back(void) {
  while (filled > 0) close(fillers[--filled]);
}

/* After this, the threads that copy have closed what they were to close: each serves one of these. */
static void let_them_close(int client, int server) {
  check_sent(client, server, "there");
  check_sent(server, client, "back");
}

/* The listener goes on; first with those whose dial had no descriptor. */
static void it_goes_on(int listener) {
  int client = dial(nets.a, "tcp", "10.9.0.2:80"), server;
  for (server = -1;; close(server)) {
    wg_net_connection_t connection;
    server = accept_from(nets.b, listener, &connection);
    if (strcmp(text_of(&connection.peer), local_of(nets.a, client)) == 0) break;
  }
  check_sent(client, server, "as before");
  close(client);
  close(server);
}

/* Without descriptors there is a code for that, and a listener goes on. */
static void there_may_be_no_descriptors(void) {
  int listener = listen_at(nets.b, "tcp", ":80"), flows = listen_at(nets.b, "udp", ":80"), client, before, i;
  int first = dial(nets.a, "tcp", "10.9.0.2:80"), accepted = accept_from(nets.b, listener, NULL);
  struct rlimit limit, less;
  int32_t fd = -1;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  less = limit;
  less.rlim_cur = 200;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &less), 0);
  client = dial(nets.a, "tcp", "10.9.0.2:80");
  wait_readable(listener);
  let_them_close(first, accepted);
  before = open_fds();
  leave_no_descriptor(0);
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:80", LONG, &fd), WG_ERR_RESOURCES, "descriptor");
  CHECK_FAILS(wg_net_dial(nets.a, "udp", "10.9.0.2:80", LONG, &fd), WG_ERR_RESOURCES, "descriptor");
  CHECK_EQ(wg_net_listen(nets.b, "tcp", ":81", 0, &fd), WG_ERR_RESOURCES);
  CHECK_EQ(wg_net_listen(nets.b, "udp", ":81", 0, &fd), WG_ERR_RESOURCES);
  /* At last, as it closes what it could not take. */
  CHECK_FAILS(wg_net_accept(nets.b, listener, LONG, &fd, NULL), WG_ERR_RESOURCES, "connection");
  give_descriptors_back();
  check_reset(client);
  close(client);
  it_goes_on(listener);
  for (i = 0; i < TRIES && open_fds() > before; i++) sleep_ms(1);
  CHECK(open_fds() <= before);
  /* The port was not kept. */
  close(listen_at(nets.b, "udp", ":81"));
  client = dial(nets.a, "udp", "10.9.0.2:80");
  CHECK_EQ(send(client, "lost", 4, 0), 4);
  wait_readable(flows);
  let_them_close(first, accepted);
  leave_no_descriptor(0);
  CHECK_FAILS(wg_net_accept(nets.b, flows, LONG, &fd, NULL), WG_ERR_RESOURCES, "descriptor");
  give_descriptors_back();
  close(client);
  CHECK_EQ(fd, -1);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  it_goes_on(listener);
  close(first);
  close(accepted);
  close(listener);
  close(flows);
}

/* The only number that is left is that of the standard input, which is not used. */
static void a_standard_number_is_none(void) {
  int listener = listen_at(nets.b, "tcp", ":91"), client = dial(nets.a, "tcp", "10.9.0.2:91"), standard, i;
  struct rlimit limit, less;
  int32_t fd = -1;
  CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  less = limit;
  less.rlim_cur = 200;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &less), 0);
  wait_readable(listener);
  standard = fcntl(0, F_DUPFD_CLOEXEC, 3);
  CHECK(standard > 2);
  leave_no_descriptor(0);
  close(0);
  CHECK_FAILS(wg_net_accept(nets.b, listener, LONG, &fd, NULL), WG_ERR_RESOURCES, "descriptor");
  CHECK_EQ(dup2(standard, 0), 0);
  close(standard);
  give_descriptors_back();
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  check_reset(client);
  close(client);
  /* What waits for a listener that is closed is reset. */
  client = dial(nets.a, "tcp", "10.9.0.2:91");
  wait_readable(listener);
  close(listener);
  check_reset(client);
  close(client);
  for (i = 0; i < 3; i++) CHECK(is_open(i));
}

/* Listening and closing again leaves nothing, at whatever port. */
static void listeners_in_a_loop_leave_nothing(void) {
  int i, before = open_fds();
  for (i = 0; i < 300; i++) {
    close(listen_at(nets.b, "tcp", ":0"));
    close(listen_at(nets.b, "udp", ":0"));
  }
  for (i = 0; i < TRIES && open_fds() > before; i++) sleep_ms(1);
  CHECK(open_fds() <= before);
}

/* A port that the network has chosen is the listener's as long as that is open, and no longer. */
static void the_port_of_a_listener_for_datagrams_is_its_own(void) {
  static int listeners[48];
  int i, k, count = (int)(sizeof listeners / sizeof listeners[0]);
  int32_t fd = -1;
  char at[32];
  for (i = 0; i < count; i++) listeners[i] = listen_at(nets.b, "udp", ":0");
  for (i = 0; i < count; i++) {
    for (k = 0; k < i; k++) CHECK(port_of(nets.b, listeners[i]) != port_of(nets.b, listeners[k]));
    snprintf(at, sizeof at, ":%d", port_of(nets.b, listeners[i]));
    CHECK_EQ(wg_net_listen(nets.b, "udp", at, 0, &fd), WG_ERR_ADDR_IN_USE);
  }
  for (i = 0; i < count; i++) close(listeners[i]);
  /* A port that was given back is free at once. */
  close(listen_at(nets.b, "udp", at));
  close(listen_at(nets.b, "udp", at));
  CHECK_EQ(fd, -1);
}

/* A listener for datagrams takes what is for its port, and changes nothing for the rest. */
static void others_are_left_alone(void) {
  int listener = listen_at(nets.b, "udp", ":82"), client, i;
  int32_t fd = -1;
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "10.9.0.2:82", LONG, &fd), WG_ERR_REFUSED, "10.9.0.2:82");
  CHECK_FAILS(wg_net_dial(nets.a, "tcp", "192.0.2.80:82", 100, &fd), WG_ERR_TIMED_OUT, "192.0.2.80:82");
  CHECK_EQ(wg_net_ping(nets.a, "192.0.2.80", 1, 100, NULL), WG_ERR_TIMED_OUT);
  client = dial(nets.a, "udp", "10.9.0.2:82");
  close(listener);
  /* Nothing waits in a listener that was closed, and its port is free. */
  for (i = 0; i < 10; i++) CHECK_EQ(send(client, "x", 1, 0), 1);
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", 1, LONG, NULL), WG_OK);
  listener = listen_at(nets.b, "udp", ":82");
  CHECK_EQ(wg_net_accept(nets.b, listener, 0, &fd, NULL), WG_ERR_TIMED_OUT);
  close(client);
  close(listener);
  CHECK_EQ(fd, -1);
}

/* As with SO_LINGER: the peer gets a RST, whatever there is to read or to send. */
static void a_connection_can_be_reset(void) {
  int listener = listen_at(nets.b, "tcp", ":83"), flows = listen_at(nets.b, "udp", ":83"), client, server, i;
  char byte;
  for (i = 0; i < 2; i++) {
    int resets, sees;
    client = dial(nets.a, "tcp", "10.9.0.2:83");
    server = accept_from(nets.b, listener, NULL);
    check_sent(client, server, "before");
    resets = i == 0 ? client : server;
    sees = i == 0 ? server : client;
    CHECK_EQ(wg_net_reset(i == 0 ? nets.a : nets.b, resets), WG_OK);
    wait_readable(sees);
    CHECK(read(sees, &byte, 1) == -1 && errno == ECONNRESET);
    wait_readable(resets);
    CHECK(read(resets, &byte, 1) == -1 && errno == ECONNRESET);
    CHECK(send(resets, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    CHECK_FAILS(wg_net_reset(i == 0 ? nets.a : nets.b, resets), WG_ERR_INVALID, "ended");
    close(client);
    close(server);
  }
  client = dial(nets.a, "udp", "10.9.0.2:83");
  CHECK_EQ(send(client, "x", 1, 0), 1);
  server = accept_from(nets.b, flows, NULL);
  CHECK_FAILS(wg_net_reset(nets.a, server), WG_ERR_INVALID, "not a connection of this network");
  CHECK_EQ(wg_net_reset(nets.b, server), WG_OK);
  wait_gone(server);
  CHECK_FAILS(wg_net_reset(nets.b, flows), WG_ERR_INVALID, "not a connection of this network");
  CHECK_FAILS(wg_net_reset(nets.b, -1), WG_ERR_INVALID, "is not open");
  close(client);
  close(server);
  close(listener);
  close(flows);
}

/* Numbers of descriptors mean what the system says that they mean now. */
static void numbers_are_used_again(void) {
  int listener = listen_at(nets.b, "tcp", ":84"), client = dial(nets.a, "tcp", "10.9.0.2:84"), server, pair[2];
  int32_t fd = -1;
  wg_endpoint_t address;
  server = accept_from(nets.b, listener, NULL);
  make_pair(SOCK_STREAM, pair);
  /* A listener's number is that of a connection, and the other way round. */
  CHECK_EQ(dup2(server, listener), listener);
  CHECK_FAILS(wg_net_accept(nets.b, listener, LONG, &fd, NULL), WG_ERR_INVALID, "does not listen");
  CHECK_EQ(wg_net_peer_address(nets.b, listener, &address), WG_OK);
  CHECK_EQ(dup2(pair[0], server), server);
  CHECK_EQ(wg_net_peer_address(nets.b, server, &address), WG_ERR_INVALID);
  CHECK_EQ(wg_net_reset(nets.b, server), WG_ERR_INVALID);
  check_sent(client, listener, "the connection is where it was moved to");
  close(listener);
  check_end(client);
  CHECK_EQ(dup2(pair[0], client), client);
  CHECK_EQ(wg_net_local_address(nets.a, client, &address), WG_ERR_INVALID);
  CHECK_EQ(wg_net_accept(nets.a, client, LONG, &fd, NULL), WG_ERR_INVALID);
  close(client);
  close(server);
  close(pair[0]);
  close(pair[1]);
  CHECK_EQ(fd, -1);
}

/* Addresses that nothing can be sent to. */
static void some_addresses_are_no_hosts(void) {
  static const char *const targets[] = {"0.0.0.0:80", "[::]:80", "224.0.0.1:80", "[ff02::1]:80", "255.255.255.255:80"};
  size_t i;
  int32_t fd = -1;
  for (i = 0; i < sizeof targets / sizeof targets[0]; i++) {
    CHECK_FAILS(wg_net_dial(nets.a, "tcp", targets[i], LONG, &fd), WG_ERR_INVALID, targets[i]);
    CHECK_FAILS(wg_net_dial(nets.a, "udp", targets[i], LONG, &fd), WG_ERR_INVALID, targets[i]);
  }
  CHECK_EQ(wg_net_ping(nets.a, "0.0.0.0", 1, LONG, NULL), WG_ERR_INVALID);
  CHECK_EQ(wg_net_ping(nets.a, "ff02::1", 1, LONG, NULL), WG_ERR_INVALID);
  /* There is no way back into the network itself: no peer has its addresses. */
  CHECK_FAILS(wg_net_dial(nets.b, "tcp", "10.9.0.2:80", LONG, &fd), WG_ERR_UNREACHABLE, "10.9.0.2:80");
  CHECK_EQ(fd, -1);
}

static void *accepts(void *argument) {
  int32_t fd = -1;
  CHECK_FAILS(wg_net_accept(nets.b, *(int *)argument, -1, &fd, NULL), WG_ERR_CLOSED, "ended");
  CHECK_EQ(fd, -1);
  return NULL;
}

/* shutdown() ends the waits of all threads, of any kind of listener; other calls go on. */
static void waits_can_be_ended(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  int listeners[3], i, k;
  pthread_t threads[3][2];
  int32_t fd = -1;
  listeners[0] = listen_at(nets.b, "tcp", ":85");
  listeners[1] = listen_at(nets.b, "udp", ":85");
  CHECK_EQ(wg_net_intercept(nets.b, &options, &fd), WG_OK);
  listeners[2] = fd;
  for (i = 0; i < 3; i++)
    for (k = 0; k < 2; k++) start(&threads[i][k], accepts, &listeners[i]);
  sleep_ms(20);
  for (i = 0; i < 3; i++) CHECK_EQ(shutdown(listeners[i], SHUT_RDWR), 0);
  for (i = 0; i < 3; i++) {
    for (k = 0; k < 2; k++) join(threads[i][k]);
    CHECK_FAILS(wg_net_accept(nets.b, listeners[i], -1, &fd, NULL), WG_ERR_CLOSED, "ended");
    close(listeners[i]);
  }
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
}

static void *closes_late(void *argument) {
  sleep_ms(50);
  close(*(int *)argument);
  return NULL;
}

/* Which is not allowed: but it does not hang, or keep a processor busy, as long as the number is not used again. */
static void a_listener_may_be_closed_under_a_call(void) {
  int listener = listen_at(nets.b, "udp", ":86");
  int32_t fd = -1;
  pthread_t thread;
  start(&thread, closes_late, &listener);
  CHECK(wg_net_accept(nets.b, listener, 300, &fd, NULL) < 0);
  join(thread);
  CHECK_EQ(fd, -1);
}

static void time_limits_are_those_of_poll(void) {
  int listener = listen_at(nets.b, "tcp", ":87"), client, server;
  int32_t fd = -1;
  wg_address_t found;
  size_t count;
  CHECK_EQ(wg_net_accept(nets.b, listener, 0, &fd, NULL), WG_ERR_TIMED_OUT);
  CHECK_EQ(wg_net_dial(nets.a, "tcp", "10.9.0.2:87", INT32_MIN, &fd), WG_OK);
  client = fd;
  CHECK_EQ(wg_net_accept(nets.b, listener, INT32_MAX, &fd, NULL), WG_OK);
  server = fd;
  check_sent(client, server, "without a limit");
  close(client);
  close(server);
  CHECK_EQ(wg_net_dial(nets.a, "tcp", "10.9.0.2:87", INT32_MAX, &fd), WG_OK);
  client = fd;
  CHECK_EQ(wg_net_accept(nets.b, listener, -1, &fd, NULL), WG_OK);
  close(fd);
  close(client);
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", 1, -1, NULL), WG_OK);
  CHECK_EQ(wg_net_ping(nets.a, "10.9.0.2", 1, INT32_MAX, NULL), WG_OK);
  CHECK_EQ(wg_net_resolve(nets.a, "10.9.0.2", 0, INT32_MIN, &found, 1, &count), WG_OK);
  CHECK_EQ(wg_net_dial(nets.a, "udp", "10.9.0.2:87", 0, &fd), WG_OK); /* it need not wait */
  close(fd);
  close(listener);
}

/* The process does not ignore SIGPIPE, and its parent sees that there was none. */
static void no_signal_comes_from_the_library(void) {
  int listener = listen_at(nets.b, "tcp", ":88"), flows = listen_at(nets.b, "udp", ":88"), i;
  struct sigaction action;
  CHECK_EQ(sigaction(SIGPIPE, NULL, &action), 0);
  CHECK(action.sa_handler == SIG_DFL);
  for (i = 0; i < 50; i++) {
    static char block[100000];
    int client = dial(nets.a, "tcp", "10.9.0.2:88"), server = accept_from(nets.b, listener, NULL);
    (void)send(server, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (i % 2 == 0) CHECK_EQ(shutdown(client, SHUT_RD), 0);
    (void)send(server, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
    close(client);
    (void)send(server, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
    close(server);
    client = dial(nets.a, "udp", "10.9.0.2:88");
    CHECK_EQ(send(client, "x", 1, MSG_NOSIGNAL), 1);
    server = accept_from(nets.b, flows, NULL);
    CHECK_EQ(send(server, "x", 1, MSG_NOSIGNAL), 1);
    close(client);
    close(server);
  }
  close(flows);
  close(listener);
}

/* A child has copies of the descriptors: they are its own, and those of the parent work on. */
static void a_child_has_its_own_copies(void) {
  int listener = listen_at(nets.b, "tcp", ":89"), client = dial(nets.a, "tcp", "10.9.0.2:89"), status = 1, i;
  int server = accept_from(nets.b, listener, NULL);
  pid_t child = fork();
  if (child == 0) {
    int32_t fd = -1;
    for (i = 3; i < 1024; i++)
      if (i != client) close(i);
    if (wg_net_reset(nets.a, client) != WG_ERR_FORKED) _exit(1);
    if (wg_net_dial(nets.a, "tcp", "10.9.0.2:89", 0, &fd) != WG_ERR_FORKED) _exit(1);
    if (send(client, "from a child", 12, MSG_NOSIGNAL) != 12) _exit(2);
    _exit(0);
  }
  CHECK(child > 0);
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  {
    char got[13] = {0};
    read_all(server, got, 12);
    CHECK_TEXT(got, "from a child");
  }
  check_sent(client, server, "from the parent");
  check_sent(server, client, "and back");
  close(server);
  close(client);
  client = dial(nets.a, "tcp", "10.9.0.2:89");
  close(client);
  close(listener);
}

/* Whatever is open now beside what was before is closed by exec(). */
static void check_closed_by_exec(const int *before, int count) {
  int fd;
  for (fd = 0; fd < count; fd++)
    CHECK(before[fd] || !is_open(fd) || (fd > 2 && (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0));
}

static void descriptors_are_closed_by_exec(void) {
  wg_net_intercept_t options = WG_NET_INTERCEPT_INIT;
  static int before[1024];
  int listener, client, server, flows, datagrams, flow, i;
  int32_t fd = -1;
  for (i = 0; i < 1024; i++) before[i] = is_open(i);
  listener = listen_at(nets.b, "tcp", ":90");
  flows = listen_at(nets.b, "udp", ":90");
  client = dial(nets.a, "tcp", "10.9.0.2:90");
  server = accept_from(nets.b, listener, NULL);
  datagrams = dial(nets.a, "udp", "10.9.0.2:90");
  CHECK_EQ(send(datagrams, "x", 1, 0), 1);
  flow = accept_from(nets.b, flows, NULL);
  CHECK_EQ(wg_net_intercept(nets.b, &options, &fd), WG_OK);
  check_closed_by_exec(before, 1024);
  CHECK_EQ(wg_net_intercept(nets.b, NULL, NULL), WG_OK);
  close(fd);
  close(flow);
  close(datagrams);
  close(client);
  close(server);
  close(flows);
  close(listener);
}

int main(void) {
  int fds = open_fds(), tasks = threads();
  nets = turn_nets_on();
  there_may_be_no_descriptors();
  a_standard_number_is_none();
  listeners_in_a_loop_leave_nothing();
  the_port_of_a_listener_for_datagrams_is_its_own();
  others_are_left_alone();
  a_connection_can_be_reset();
  numbers_are_used_again();
  some_addresses_are_no_hosts();
  waits_can_be_ended();
  a_listener_may_be_closed_under_a_call();
  time_limits_are_those_of_poll();
  no_signal_comes_from_the_library();
  a_child_has_its_own_copies();
  descriptors_are_closed_by_exec();
  turn_nets_off(nets);
  CHECK_EQ(open_fds(), fds);
  check_threads(tasks);
  return 0;
}
