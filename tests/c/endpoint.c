/* Endpoints: as text, as plain memory, and without their source. */
#include "check.h"

#include <net/if.h>

static wg_endpoint_t parse(const char *text) {
  wg_endpoint_t endpoint;
  memset(&endpoint, 0xaa, sizeof endpoint);
  CHECK_EQ(wg_endpoint_parse(text, &endpoint), WG_OK);
  return endpoint;
}

static void text_both_ways(void) {
  static const char *const good[] = {"192.0.2.1:51820", "0.0.0.0:0", "255.255.255.255:65535", "[2001:db8::1]:51820",
                                     "[fe80::1%7]:1", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535"};
  static const char *const bad[] = {"", "192.0.2.1", "192.0.2.1:65536", "2001:db8::1:5", "example.com:51820", "[::1:5",
                                    "192.0.2.1:1\n", "\xff"};
  char text[WG_ENDPOINT_TEXT_LEN + 1];
  wg_endpoint_t endpoint, before;
  size_t i;
  text[WG_ENDPOINT_TEXT_LEN] = 'x';
  for (i = 0; i < sizeof good / sizeof good[0]; i++) {
    endpoint = parse(good[i]);
    CHECK_EQ(wg_endpoint_format(&endpoint, text), WG_OK);
    CHECK_EQ(strcmp(text, good[i]), 0);
    CHECK_EQ(text[WG_ENDPOINT_TEXT_LEN], 'x');
    CHECK_EQ(wg_endpoint_format_source(&endpoint, text), WG_OK);
    CHECK_EQ(strcmp(text, ""), 0);
  }
  memset(&endpoint, 0xaa, sizeof endpoint);
  before = endpoint;
  for (i = 0; i < sizeof bad / sizeof bad[0]; i++) CHECK_EQ(wg_endpoint_parse(bad[i], &endpoint), WG_ERR_INVALID);
  CHECK_FAILS(wg_endpoint_parse("[fe80::1%no-such-interface]:1", &endpoint), WG_ERR_NOT_FOUND, "no-such-interface");
  CHECK_EQ(memcmp(&endpoint, &before, sizeof endpoint), 0); /* not written on failure */
  endpoint = parse("[fe80::1%lo]:1");
  CHECK_EQ(endpoint.scope_id, if_nametoindex("lo"));
}

static void plain_memory(void) {
  static const unsigned char v4[16] = {192, 0, 2, 1}, v6[16] = {0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  char text[WG_ENDPOINT_TEXT_LEN];
  wg_endpoint_t endpoint = parse("192.0.2.1:258"), other;
  CHECK_EQ(endpoint.family, WG_IPV4);
  CHECK_EQ(endpoint.port, 258);
  CHECK_EQ(endpoint.scope_id, 0);
  CHECK_EQ(memcmp(endpoint.address, v4, 16), 0);
  other = parse("192.0.2.1:258");
  CHECK_EQ(memcmp(&endpoint, &other, sizeof endpoint), 0);

  memset(&endpoint, 0, sizeof endpoint);
  endpoint.family = WG_IPV6;
  endpoint.port = 51820;
  memcpy(endpoint.address, v6, 16);
  memcpy(endpoint.source, v6, 16);
  endpoint.source[15] = 2;
  endpoint.source_interface = 3;
  CHECK_EQ(wg_endpoint_format(&endpoint, text), WG_OK);
  CHECK_EQ(strcmp(text, "[2001:db8::1]:51820"), 0);
  CHECK_EQ(wg_endpoint_format_source(&endpoint, text), WG_OK);
  CHECK_EQ(strcmp(text, "2001:db8::2"), 0);
  CHECK_EQ(wg_endpoint_clear_source(&endpoint), WG_OK);
  other = parse("[2001:db8::1]:51820");
  CHECK_EQ(memcmp(&endpoint, &other, sizeof endpoint), 0);
}

static void what_is_wrong_is_said(void) {
  char text[WG_ENDPOINT_TEXT_LEN] = "as it was";
  wg_endpoint_t endpoint = parse("192.0.2.1:1");
  CHECK_FAILS(wg_endpoint_parse(NULL, &endpoint), WG_ERR_NULL, "text is NULL");
  CHECK_FAILS(wg_endpoint_parse("192.0.2.1:1", NULL), WG_ERR_NULL, "endpoint is NULL");
  CHECK_FAILS(wg_endpoint_format(NULL, text), WG_ERR_NULL, "endpoint is NULL");
  CHECK_FAILS(wg_endpoint_format(&endpoint, NULL), WG_ERR_NULL, "text is NULL");
  CHECK_FAILS(wg_endpoint_format_source(NULL, text), WG_ERR_NULL, "endpoint is NULL");
  CHECK_FAILS(wg_endpoint_format_source(&endpoint, NULL), WG_ERR_NULL, "text is NULL");
  CHECK_FAILS(wg_endpoint_clear_source(NULL), WG_ERR_NULL, "endpoint is NULL");
  endpoint.family = 10; /* AF_INET6 */
  CHECK_FAILS(wg_endpoint_format(&endpoint, text), WG_ERR_INVALID, "family is 10");
  CHECK_EQ(strcmp(text, "as it was"), 0);
}

/* At each address that there may be, and exactly as long as said, so that a sanitizer sees a byte too many. */
static wg_result_t from(const void *address, size_t len, wg_endpoint_t *endpoint) {
  size_t offset;
  wg_result_t result = WG_OK;
  for (offset = 0; offset < 8; offset++) {
    unsigned char *room = malloc(offset + len + 1);
    CHECK(room != NULL);
    memcpy(room + offset + 1, address, len);
    result = wg_endpoint_from_sockaddr(room + offset + 1, len, endpoint);
    free(room);
  }
  return result;
}

static void addresses_of_the_system(void) {
  struct sockaddr_in v4, v4_again;
  struct sockaddr_in6 v6, v6_again;
  struct sockaddr_storage large;
  wg_endpoint_t endpoint, expected, before;
  unsigned char room[1 + sizeof(struct sockaddr_storage)];
  size_t len;
  memset(&v4, 0, sizeof v4);
  v4.sin_family = AF_INET;
  v4.sin_port = htons(51820);
  CHECK_EQ(inet_pton(AF_INET, "192.0.2.1", &v4.sin_addr), 1);
  memset(&v6, 0, sizeof v6);
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(258);
  v6.sin6_flowinfo = htonl(0x12345);
  v6.sin6_scope_id = 7;
  CHECK_EQ(inet_pton(AF_INET6, "fe80::1", &v6.sin6_addr), 1);

  expected = parse("192.0.2.1:51820");
  CHECK_EQ(from(&v4, sizeof v4, &endpoint), WG_OK);
  CHECK_EQ(memcmp(&endpoint, &expected, sizeof endpoint), 0);
  memset(&large, 0xaa, sizeof large);
  memcpy(&large, &v4, sizeof v4);
  CHECK_EQ(from(&large, sizeof large, &endpoint), WG_OK);
  CHECK_EQ(memcmp(&endpoint, &expected, sizeof endpoint), 0);
  len = sizeof room - 1;
  CHECK_EQ(wg_endpoint_to_sockaddr(&endpoint, room + 1, &len), WG_OK);
  CHECK_EQ(len, sizeof v4);
  memcpy(&v4_again, room + 1, sizeof v4);
  CHECK_EQ(memcmp(&v4_again, &v4, sizeof v4), 0);

  expected = parse("[fe80::1%7]:258");
  CHECK_EQ(from(&v6, sizeof v6, &endpoint), WG_OK);
  CHECK_EQ(memcmp(&endpoint, &expected, sizeof endpoint), 0);
  endpoint.source[15] = 1; /* which is left out */
  endpoint.source_interface = 3;
  len = sizeof v6;
  CHECK_EQ(wg_endpoint_to_sockaddr(&endpoint, room + 1, &len), WG_OK);
  CHECK_EQ(len, sizeof v6);
  memcpy(&v6_again, room + 1, sizeof v6);
  v6.sin6_flowinfo = 0; /* as is this */
  CHECK_EQ(memcmp(&v6_again, &v6, sizeof v6), 0);

  /* A mapped address stays one of IPv6. */
  CHECK_EQ(inet_pton(AF_INET6, "::ffff:192.0.2.1", &v6.sin6_addr), 1);
  CHECK_EQ(from(&v6, sizeof v6, &endpoint), WG_OK);
  CHECK_EQ(endpoint.family, WG_IPV6);

  memset(&endpoint, 0xaa, sizeof endpoint);
  before = endpoint;
  for (len = 0; len < sizeof v4; len++) CHECK_EQ(from(&v4, len, &endpoint), WG_ERR_INVALID);
  for (len = 0; len < sizeof v6; len++) CHECK_EQ(from(&v6, len, &endpoint), WG_ERR_INVALID);
  large.ss_family = AF_UNIX;
  CHECK_FAILS(from(&large, sizeof large, &endpoint), WG_ERR_UNSUPPORTED, "address family 1");
  large.ss_family = AF_UNSPEC;
  CHECK_EQ(from(&large, sizeof large, &endpoint), WG_ERR_UNSUPPORTED);
  CHECK_FAILS(wg_endpoint_from_sockaddr(NULL, 0, &endpoint), WG_ERR_NULL, "the address is NULL");
  CHECK_FAILS(wg_endpoint_from_sockaddr(&v4, sizeof v4, NULL), WG_ERR_NULL, "the endpoint is NULL");
  CHECK_EQ(memcmp(&endpoint, &before, sizeof endpoint), 0);

  memset(room, 0xaa, sizeof room);
  for (len = 0; len < sizeof v4; len++) {
    size_t small = len;
    expected = parse("192.0.2.1:1");
    CHECK_FAILS(wg_endpoint_to_sockaddr(&expected, room, &small), WG_ERR_INVALID, "which takes 16");
    CHECK_EQ(small, len);
  }
  len = sizeof v6 - 1;
  expected = parse("[::1]:1");
  CHECK_FAILS(wg_endpoint_to_sockaddr(&expected, room, &len), WG_ERR_INVALID, "which takes 28");
  CHECK_FAILS(wg_endpoint_to_sockaddr(&endpoint, room, &len), WG_ERR_INVALID, "family");
  CHECK_FAILS(wg_endpoint_to_sockaddr(NULL, room, &len), WG_ERR_NULL, "the endpoint is NULL");
  CHECK_FAILS(wg_endpoint_to_sockaddr(&expected, NULL, &len), WG_ERR_NULL, "address or len is NULL");
  CHECK_FAILS(wg_endpoint_to_sockaddr(&expected, room, NULL), WG_ERR_NULL, "address or len is NULL");
  for (len = 0; len < sizeof room; len++) CHECK_EQ(room[len], 0xaa);
}

int main(void) {
  addresses_of_the_system();
  text_both_ways();
  plain_memory();
  what_is_wrong_is_said();
  return 0;
}
