/* interface_name of wg_options_t: an interface that the tunnel creates, and removes. Linux, with CAP_NET_ADMIN. */
#include "check.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

#define NAME "wg-c-named"

static int ended, ask;

static struct ifreq request(void) {
  struct ifreq one;
  memset(&one, 0, sizeof one);
  strcpy(one.ifr_name, NAME);
  return one;
}

static int exists(void) {
  struct ifreq one = request();
  return ioctl(ask, SIOCGIFFLAGS, &one) == 0;
}

static void set_up(int up) {
  struct ifreq one = request();
  CHECK_EQ(ioctl(ask, SIOCGIFFLAGS, &one), 0);
  one.ifr_flags = (short)(up ? one.ifr_flags | IFF_UP : one.ifr_flags & ~IFF_UP);
  CHECK_EQ(ioctl(ask, SIOCSIFFLAGS, &one), 0);
}

static int mtu(void) {
  struct ifreq one = request();
  CHECK_EQ(ioctl(ask, SIOCGIFMTU, &one), 0);
  return one.ifr_mtu;
}

static void wait_for_port(int32_t handle, int is_open) {
  int tries;
  for (tries = 0; (wg_listen_port(handle) > 0) != is_open; tries++) {
    CHECK(tries < TRIES);
    sleep_ms(1);
  }
}

/* Never called. */
static size_t takes(void *user, int32_t handle, const wg_packet_t *packets, size_t count) {
  (void)user, (void)handle, (void)packets;
  return count;
}

static void destroys(void *user) {
  CHECK(user == &ended);
  ended++;
}

static void wrong_names_are_refused(void) {
  static const char *const names[] = {"", "sixteen-bytes-xx", "a/b", ".", "wg%d"};
  wg_options_t options = WG_OPTIONS_INIT;
  wg_tun_callbacks_t tun = WG_TUN_CALLBACKS_INIT;
  size_t i;
  for (i = 0; i < sizeof names / sizeof names[0]; i++) {
    options.interface_name = names[i];
    CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "the interface name");
  }
  options.interface_name = "\xff";
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "interface_name is not UTF-8");
  options.interface_name = NAME;
  options.tun_fd = 0;
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "interface_name is set, and tun_fd is 0, not -1");
  options.tun_fd = -1;
  tun.write = takes;
  tun.user = &ended;
  tun.destroy = destroys;
  options.tun = &tun;
  CHECK_FAILS(wg_turn_on_with(&options, ""), WG_ERR_INVALID, "both tun and interface_name are set");
  CHECK_EQ(ended, 1);
}

static void it_is_there_as_long_as_the_tunnel(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle, second;
  options.interface_name = NAME;
  options.mtu = 1300;
  CHECK_FAILS(wg_turn_on_with(&options, "private_key=1\n"), WG_ERR_INVALID, "private_key");
  CHECK(!exists());
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(handle > 0);
  CHECK(exists());
  CHECK_EQ(mtu(), 1300);
  second = wg_turn_on_with(&options, "");
  CHECK(second == WG_ERR_BUSY || second == WG_ERR_EXISTS);
  CHECK_FAILS(wg_set_tun_fd(handle, -1, WG_FD_TAKE, 0), WG_ERR_UNSUPPORTED, "an interface of its own");
  set_up(1);
  wait_for_port(handle, 1);
  set_up(0);
  wait_for_port(handle, 0);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK(!exists());
  options.mtu = 0;
  handle = wg_turn_on_with(&options, "");
  CHECK(handle > 0);
  CHECK_EQ(mtu(), WG_MTU_DEFAULT);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK(!exists());
}

/* Created, or passed with all their descriptors, which are then the library's. */
static void it_has_several_queues(void) {
  wg_options_t options = WG_OPTIONS_INIT;
  int32_t handle, fds[2];
  int i;
  options.interface_name = NAME;
  options.queues = 3;
  handle = wg_turn_on_with(&options, "private_key=" PRIVATE_A "\n");
  CHECK(handle > 0 && exists());
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  CHECK(!exists());
  options.interface_name = NULL;
  options.queues = 2;
  for (i = 0; i < 2; i++) {
    struct ifreq one = request();
    one.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE;
    fds[i] = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    CHECK(fds[i] >= 0 && ioctl(fds[i], TUNSETIFF, &one) == 0);
  }
  options.tun_fd = fds[0];
  options.queue_fds = &fds[1];
  CHECK_FAILS(wg_turn_on_with(&options, "private_key=1\n"), WG_ERR_INVALID, "private_key");
  for (i = 0; i < 2; i++) CHECK(fcntl(fds[i], F_GETFD) >= 0);
  options.fd_ownership = WG_FD_DUP;
  handle = wg_turn_on_with(&options, "");
  CHECK(handle > 0);
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  for (i = 0; i < 2; i++) CHECK(fcntl(fds[i], F_GETFD) >= 0);
  options.fd_ownership = WG_FD_TAKE;
  handle = wg_turn_on_with(&options, "");
  CHECK(handle > 0);
  CHECK_FAILS(wg_set_tun_fd(handle, ask, WG_FD_DUP, 0), WG_ERR_UNSUPPORTED, "several queues");
  CHECK_EQ(wg_turn_off(handle), WG_OK);
  for (i = 0; i < 2; i++) CHECK(fcntl(fds[i], F_GETFD) < 0);
  CHECK(!exists());
}

int main(void) {
  int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  wrong_names_are_refused();
  if (device < 0 || unshare(CLONE_NEWNET) != 0) {
    printf("skipped: an interface, as there is no /dev/net/tun, or no right to a network namespace\n");
    return 0;
  }
  close(device);
  ask = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  CHECK(ask >= 0);
  it_is_there_as_long_as_the_tunnel();
  it_has_several_queues();
  close(ask);
  return 0;
}
