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

int main(void) {
  text_both_ways();
  plain_memory();
  what_is_wrong_is_said();
  return 0;
}
