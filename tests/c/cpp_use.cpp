// The header from C++17: a tunnel that turns itself off, exceptions for errors, lambdas as callbacks; packets between
// two.
#include "wg_embed.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

// Structs are plain memory for C++, too.
static_assert(std::is_trivial<wg_options_t>::value && std::is_standard_layout<wg_options_t>::value, "");
static_assert(std::is_trivial<wg_event_t>::value && std::is_trivial<wg_endpoint_t>::value, "");
static_assert(std::is_same<std::underlying_type<wg_result_t>::type, std::int32_t>::value, "");

// Each macro is what its struct begins as.
[[maybe_unused]] const wg_peer_config_t peer_config = WG_PEER_CONFIG_INIT;
[[maybe_unused]] const wg_event_t event = WG_EVENT_INIT;
[[maybe_unused]] const wg_tun_callbacks_t tun_callbacks = WG_TUN_CALLBACKS_INIT;
[[maybe_unused]] const wg_transport_t transport = WG_TRANSPORT_INIT;
[[maybe_unused]] const wg_udp_options_t udp_options = WG_UDP_OPTIONS_INIT;
[[maybe_unused]] const wg_stats_t stats = WG_STATS_INIT;
[[maybe_unused]] const wg_peer_stats_t peer_stats = WG_PEER_STATS_INIT;
[[maybe_unused]] const wg_memory_usage_t memory_usage = WG_MEMORY_USAGE_INIT;

namespace {

void check(bool condition, const char *what) {
  if (condition) return;
  std::fprintf(stderr, "cpp_use: %s (last error \"%s\")\n", what, wg_last_error());
  std::exit(1);
}

// A failure of the library.
struct Error : std::runtime_error {
  explicit Error(std::int32_t code) : std::runtime_error(wg_last_error()), code(code) {}
  std::int32_t code;
};

std::int32_t checked(std::int32_t result) {
  if (result < 0) throw Error(result);
  return result;
}

// A descriptor that is closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor &operator=(Descriptor &&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }
  void release() { fd_ = -1; }

 private:
  int fd_;
};

std::pair<Descriptor, Descriptor> packet_pair() {
  int fds[2];
  check(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds) == 0, "socketpair");
  return {Descriptor(fds[0]), Descriptor(fds[1])};
}

// What the library gives to be freed.
struct Free {
  void operator()(char *text) const { wg_free(text); }
};

// A tunnel that is turned off at the end, once.
class Tunnel {
 public:
  Tunnel(Descriptor tun, const std::string &config) : handle_(checked(wg_turn_on(tun.get(), config.c_str()))) {
    tun.release(); // on success it is the library's
  }
  Tunnel(Tunnel &&other) noexcept : handle_(std::exchange(other.handle_, 0)) {}
  Tunnel &operator=(Tunnel &&) = delete;
  ~Tunnel() {
    if (handle_ > 0) check(wg_turn_off(handle_) == WG_OK, "wg_turn_off");
  }

  std::int32_t handle() const { return handle_; }
  void set(const std::string &config) { checked(wg_set_config(handle_, config.c_str())); }

  std::string config() const {
    char *text = nullptr;
    checked(wg_get_config(handle_, &text));
    return std::unique_ptr<char, Free>(text).get();
  }

  int port() const {
    const std::string key = "listen_port=", text = config();
    const auto at = text.find(key);
    return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + key.size());
  }

 private:
  std::int32_t handle_;
};

struct Keys {
  std::string secret, open;
  Keys() {
    std::uint8_t key[WG_KEY_LEN], derived[WG_KEY_LEN];
    char text[WG_KEY_HEX_LEN];
    checked(wg_keys_generate_private(key));
    checked(wg_keys_derive_public(key, derived));
    checked(wg_keys_to_hex(key, text));
    secret = text;
    checked(wg_keys_to_hex(derived, text));
    open = text;
  }
};

std::vector<unsigned char> packet(int from, int to, std::size_t len) {
  std::vector<unsigned char> bytes(len, 0x55);
  const unsigned char header[20] = {0x45, 0, static_cast<unsigned char>(len >> 8), static_cast<unsigned char>(len), 0, 0, 0,
                                    0, 64, 253, 0, 0, 10, 9, 0, static_cast<unsigned char>(from), 10, 9, 0,
                                    static_cast<unsigned char>(to)};
  std::copy(header, header + sizeof header, bytes.begin());
  return bytes;
}

void pass(const Descriptor &in, const Descriptor &out, int from, int to) {
  for (std::size_t len : {20u, 21u, 576u, 1420u}) {
    const auto sent = packet(from, to, len);
    std::vector<unsigned char> got(2000);
    check(send(in.get(), sent.data(), sent.size(), 0) == static_cast<ssize_t>(len), "send");
    pollfd ready = {out.get(), POLLIN, 0};
    check(poll(&ready, 1, 10000) == 1, "no packet came");
    const auto n = recv(out.get(), got.data(), got.size(), 0);
    check(n == static_cast<ssize_t>(len), "another length came");
    got.resize(static_cast<std::size_t>(n));
    check(got == sent, "other bytes came");
  }
}

// A callback's state, shared with the library: `destroy` gives its share back.
struct Watch {
  std::atomic<int> handshakes{0};
};

void watch(const Tunnel &tunnel, std::shared_ptr<Watch> state) {
  auto *share = new std::shared_ptr<Watch>(std::move(state));
  checked(wg_set_event_callback(
      tunnel.handle(),
      [](void *user, std::int32_t, const wg_event_t *event) {
        if (event->kind == WG_EVENT_HANDSHAKE_COMPLETED) ++(*static_cast<std::shared_ptr<Watch> *>(user))->handshakes;
      },
      share, [](void *user) { delete static_cast<std::shared_ptr<Watch> *>(user); }));
}

void two_tunnels() {
  const Keys a, b;
  auto pair_a = packet_pair(), pair_b = packet_pair();
  const auto state = std::make_shared<Watch>();
  {
    Tunnel first(std::move(pair_a.first), "private_key=" + a.secret + "\n");
    Tunnel second(std::move(pair_b.first), "private_key=" + b.secret + "\n");
    watch(first, state);
    check(state.use_count() == 2, "the callback has a share");
    first.set("public_key=" + b.open + "\nendpoint=127.0.0.1:" + std::to_string(second.port()) +
              "\nallowed_ip=10.9.0.2/32\n");
    second.set("public_key=" + a.open + "\nendpoint=127.0.0.1:" + std::to_string(first.port()) +
               "\nallowed_ip=10.9.0.1/32\n");
    pass(pair_a.second, pair_b.second, 1, 2);
    pass(pair_b.second, pair_a.second, 2, 1);
    Tunnel moved(std::move(first)); // and is turned off once
    check(moved.config().find(b.open) != std::string::npos, "the peer is there");
  }
  check(state.use_count() == 1, "the callback's share was given back");
  check(state->handshakes >= 1, "the handshake was told");
}

void errors_are_exceptions() {
  auto pair = packet_pair();
  try {
    Tunnel tunnel(std::move(pair.first), "private_key=no key\n");
    check(false, "that key was taken");
  } catch (const Error &error) {
    check(error.code == WG_ERR_INVALID, "the code");
    check(std::string(error.what()).find("private_key") != std::string::npos, "the text");
  }
  wg_options_t options = WG_OPTIONS_INIT;
  check(options.struct_size == sizeof options && options.tun_fd == -1, "WG_OPTIONS_INIT");
  wg_udp_options_t udp_options = WG_UDP_OPTIONS_INIT;
  check(udp_options.struct_size == sizeof udp_options, "WG_UDP_OPTIONS_INIT");
  check(wg_turn_on_with(&options, "") == WG_ERR_INVALID, "no descriptor");
}

} // namespace

int main() {
  try {
    two_tunnels();
    errors_are_exceptions();
  } catch (const std::exception &error) {
    std::fprintf(stderr, "cpp_use: %s\n", error.what());
    return 1;
  }
  return 0;
}
