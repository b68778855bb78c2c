/* wg_set_tun_fd(): another descriptor while the tunnel runs, with everything else as it was. */
#include "check.h"

/* When the last handshake was. */
static int64_t handshake(struct end end) {
  uint8_t key[WG_KEY_LEN];
  wg_peer_stats_t peer = WG_PEER_STATS_INIT;
  key_bytes(PUBLIC_B, key);
  CHECK_EQ(wg_peer_stats(end.handle, key, &peer), WG_OK);
  return peer.last_handshake_sec * 1000000000 + peer.last_handshake_nsec;
}

/* Replaces the descriptor of a tunnel, and closes the other end of the old one. */
static void replace(struct end *end, int kind) {
  int pair[2];
  make_pair(kind, pair);
  CHECK_EQ(wg_set_tun_fd(end->handle, pair[0], WG_FD_TAKE, 0), WG_OK);
  CHECK(!is_open(pair[0]));
  CHECK_EQ(close(end->app), 0);
  end->app = pair[1];
}

static void goes_on(void) {
  struct end a, b;
  int64_t first;
  int before, round;
  turn_on_both(SOCK_DGRAM, &a, &b);
  check_exchange(a, b);
  first = handshake(a);
  before = open_fds();
  for (round = 0; round < 100; round++) {
    replace(&a, round % 2 ? SOCK_DGRAM : SOCK_SEQPACKET);
    check_exchange(a, b);
    CHECK_EQ(open_fds(), before);
  }
  CHECK(first == handshake(a));
  turn_off(a);
  turn_off(b);
}

/* Whose a descriptor is, and in which mode. */
static void ownership(void) {
  struct end a, b;
  int pair[2], lent[2], again[2];
  char byte;
  turn_on_both(SOCK_DGRAM, &a, &b);
  make_pair(SOCK_SEQPACKET, lent);
  CHECK_EQ(wg_set_tun_fd(a.handle, lent[0], WG_FD_DUP, 1300), WG_OK);
  CHECK(is_open(lent[0]) && is_nonblocking(lent[0]));
  CHECK_EQ(close(a.app), 0);
  a.app = lent[1];
  check_exchange(a, b);
  /* Lent again; it may be closed by then. */
  make_pair(SOCK_SEQPACKET, again);
  CHECK_EQ(wg_set_tun_fd(a.handle, again[0], WG_FD_DUP, 0), WG_OK);
  CHECK_EQ(close(again[0]), 0);
  a.app = again[1];
  check_exchange(a, b);
  /* The first one is the caller's alone: nothing is written to it, and with it the pair ends. */
  CHECK_EQ(recv(lent[1], &byte, 1, MSG_DONTWAIT), -1);
  CHECK_EQ(send(lent[1], "x", 1, 0), 1);
  CHECK_EQ(recv(lent[0], &byte, 1, MSG_DONTWAIT), 1);
  CHECK_EQ(close(lent[0]), 0);
  CHECK_EQ(recv(lent[1], &byte, 1, 0), 0);
  CHECK_EQ(close(lent[1]), 0);
  /* What was taken is closed when it is replaced. */
  make_pair(SOCK_SEQPACKET, pair);
  CHECK_EQ(wg_set_tun_fd(a.handle, pair[0], WG_FD_TAKE, 0), WG_OK);
  CHECK(!is_open(pair[0]));
  CHECK_EQ(recv(again[1], &byte, 1, 0), 0);
  CHECK_EQ(close(again[1]), 0);
  a.app = pair[1];
  check_exchange(a, b);
  turn_off(a);
  turn_off(b);
}

static void refused(struct end a, struct end b, int fd, uint32_t ownership, uint32_t mtu, wg_result_t code,
                    const char *text) {
  int before = open_fds(), was = fd >= 0 && is_open(fd), nonblocking = was && is_nonblocking(fd);
  CHECK_FAILS(wg_set_tun_fd(a.handle, fd, ownership, mtu), code, text);
  CHECK_EQ(open_fds(), before);
  if (was) CHECK(is_open(fd) && is_nonblocking(fd) == nonblocking);
  check_exchange(a, b);
}

static size_t writes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  return count;
}

static void refusals(void) {
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  wg_options_t options = WG_OPTIONS_INIT;
  struct end a, b;
  int pair[2], stream[2], tube[2], null = open("/dev/null", O_RDWR), file = open("/etc/passwd", O_RDONLY), closed = dup(null);
  int32_t handle;
  turn_on_both(SOCK_DGRAM, &a, &b);
  make_pair(SOCK_DGRAM, pair);
  make_pair(SOCK_STREAM, stream);
  CHECK_EQ(pipe(tube), 0);
  CHECK_EQ(close(closed), 0);
  refused(a, b, -1, WG_FD_TAKE, 0, WG_ERR_INVALID, "descriptor -1 is not open");
  refused(a, b, closed, WG_FD_TAKE, 0, WG_ERR_INVALID, "is not open");
  refused(a, b, stream[0], WG_FD_TAKE, 0, WG_ERR_UNSUPPORTED, "stream");
  refused(a, b, stream[0], WG_FD_DUP, 0, WG_ERR_UNSUPPORTED, "stream");
  refused(a, b, tube[0], WG_FD_TAKE, 0, WG_ERR_UNSUPPORTED, "pipe");
  refused(a, b, file, WG_FD_TAKE, 0, WG_ERR_UNSUPPORTED, "file");
  refused(a, b, null, WG_FD_TAKE, 0, WG_ERR_PERMISSION, "wait");
  refused(a, b, pair[0], 0, 0, WG_ERR_INVALID, "fd_ownership is 0");
  refused(a, b, pair[0], 3, 0, WG_ERR_INVALID, "fd_ownership is 3");
  refused(a, b, pair[0], WG_FD_TAKE, 575, WG_ERR_INVALID, "mtu is 575");
  refused(a, b, pair[0], WG_FD_DUP, 65536, WG_ERR_INVALID, "mtu is 65536");
  CHECK_FAILS(wg_set_tun_fd(0, pair[0], WG_FD_TAKE, 0), WG_ERR_UNKNOWN_HANDLE, "handle 0");
  CHECK_FAILS(wg_set_tun_fd(-1, pair[0], WG_FD_TAKE, 0), WG_ERR_UNKNOWN_HANDLE, "handle -1");

  /* Packets of the app. */
  tun.write = writes;
  options.tun = &tun;
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(handle > 0);
  CHECK_FAILS(wg_set_tun_fd(handle, pair[0], WG_FD_TAKE, 0), WG_ERR_UNSUPPORTED, "wg_tun_callbacks_t");
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK_FAILS(wg_set_tun_fd(handle, pair[0], WG_FD_TAKE, 0), WG_ERR_UNKNOWN_HANDLE, "handle");
  CHECK(is_open(pair[0]) && !is_nonblocking(pair[0]));
  turn_off(a);
  turn_off(b);
  close(pair[0]), close(pair[1]), close(stream[0]), close(stream[1]), close(tube[0]), close(tube[1]), close(null), close(file);
}

/* One that has ended stays off; one that is paused has not noticed, and goes on with another descriptor. */
static void other_end_closed(void) {
  struct end a, b;
  int pair[2], result, tries;
  turn_on_both(SOCK_SEQPACKET, &a, &b);
  CHECK_EQ(wg_pause(a.handle), WG_OK);
  replace(&a, SOCK_SEQPACKET);
  CHECK_EQ(close(a.app), 0);
  make_pair(SOCK_SEQPACKET, pair);
  CHECK_EQ(wg_set_tun_fd(a.handle, pair[0], WG_FD_TAKE, 0), WG_OK);
  a.app = pair[1];
  CHECK_EQ(wg_resume(a.handle), WG_OK);
  check_exchange(a, b);

  CHECK_EQ(close(a.app), 0);
  for (tries = 0; (result = wg_set_config(a.handle, "")) == WG_OK && tries < TRIES; tries++) sleep_ms(1);
  CHECK_EQ(result, WG_ERR_CLOSED);
  make_pair(SOCK_SEQPACKET, pair);
  CHECK_FAILS(wg_set_tun_fd(a.handle, pair[0], WG_FD_TAKE, 0), WG_ERR_CLOSED, "the tunnel has ended");
  CHECK(is_open(pair[0]));
  close(pair[0]);
  a.app = pair[1];
  turn_off(a);
  turn_off(b);
}

/* Two threads replace it, and one pauses and resumes it, while packets come from the other side. */
struct race {
  struct end a, b;
  int done;
};

enum { ROUNDS = 200 };

static void *replaces(void *argument) {
  struct race *race = argument;
  int round, pair[2], ends[ROUNDS];
  for (round = 0; round < ROUNDS; round++) {
    uint32_t ownership = round % 2 ? WG_FD_TAKE : WG_FD_DUP;
    make_pair(SOCK_DGRAM, pair);
    CHECK_EQ(wg_set_tun_fd(race->a.handle, pair[0], ownership, 1280 + (uint32_t)round), WG_OK);
    if (ownership == WG_FD_DUP) CHECK_EQ(close(pair[0]), 0);
    /* Each stays open, as a tunnel ends that writes to one without another end. */
    ends[round] = pair[1];
  }
  __atomic_add_fetch(&race->done, 1, __ATOMIC_SEQ_CST);
  while (get_int(&race->done) < 3) sleep_ms(1);
  for (round = 0; round < ROUNDS; round++) CHECK_EQ(close(ends[round]), 0);
  return NULL;
}

static void *pauses(void *argument) {
  struct race *race = argument;
  while (get_int(&race->done) < 2) {
    CHECK_EQ(wg_pause(race->a.handle), WG_OK);
    CHECK_EQ(wg_resume(race->a.handle), WG_OK);
  }
  return NULL;
}

static void *sends(void *argument) {
  struct race *race = argument;
  unsigned char packet[100];
  make_packet(packet, sizeof packet, 2, 1, 0);
  while (get_int(&race->done) < 3) (void)send(race->b.app, packet, sizeof packet, MSG_DONTWAIT);
  return NULL;
}

static void races(void) {
  struct race race;
  pthread_t threads[4];
  int before, pair[2], i;
  race.done = 0;
  turn_on_both(SOCK_DGRAM, &race.a, &race.b);
  check_exchange(race.a, race.b);
  before = open_fds();
  start(&threads[0], replaces, &race);
  start(&threads[1], replaces, &race);
  start(&threads[2], pauses, &race);
  start(&threads[3], sends, &race);
  join(threads[2]);
  make_pair(SOCK_SEQPACKET, pair);
  CHECK_EQ(wg_set_tun_fd(race.a.handle, pair[0], WG_FD_TAKE, 0), WG_OK);
  CHECK_EQ(close(race.a.app), 0);
  race.a.app = pair[1];
  __atomic_add_fetch(&race.done, 1, __ATOMIC_SEQ_CST);
  for (i = 0; i < 4; i++)
    if (i != 2) join(threads[i]);
  CHECK_EQ(open_fds(), before);
  /* It still works. */
  CHECK_EQ(wg_set_config(race.a.handle, ""), WG_OK);
  turn_off(race.a);
  turn_off(race.b);
}

int main(void) {
  goes_on();
  ownership();
  refusals();
  other_end_closed();
  races();
  return 0;
}
