/* A stand-in for wintun.dll, for tests on systems without its driver: the same exports, types and error codes, and
 * packets that are kept in memory. The test plays Windows:
 *
 *     FakeWintunGive      sends a packet into an adapter, as Windows does
 *     FakeWintunTake      takes the next packet that the program has written to an adapter
 *     FakeWintunRemove    ends an adapter's session, as when the adapter is disabled
 *     FakeWintunFaults    counts what a program must not do: to use what has ended, or to keep a received packet
 *
 * With FAKE_WINTUN_ECHO in the environment, an IPv4 packet that the program writes is sent back at once, with the
 * addresses swapped: then the program may run in a process of its own.
 *
 *     x86_64-w64-mingw32-gcc -O2 -s -shared -o wintun.dll wintun.c
 */
#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <windows.h>
#include <iphlpapi.h>
#include <netioapi.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __declspec(dllexport)
#define MAX_NAME 128
#define MAX_PACKET 0xFFFF
#define MIN_RING 0x20000
#define MAX_RING 0x4000000

struct packet {
  struct packet *next;
  DWORD size;
  BYTE bytes[];
};

/* One direction. Its bytes are those that were added and not yet released. */
struct ring {
  struct packet *first, **last;
  DWORD bytes;
};

/* The memory of a session stays when it ends, so that its use can be noticed. */
struct session {
  struct ring to_program, to_windows;
  DWORD capacity;
  HANDLE event;
  BOOL ended, removed;
};

struct adapter {
  struct adapter *next;
  WCHAR name[MAX_NAME];
  struct session *session;
  int references;
};

static CRITICAL_SECTION lock;
static struct adapter *adapters;
static LONG faults;
static BOOL echoes;
static void(CALLBACK *logger)(int level, DWORD64 time, LPCWSTR message);

BOOL WINAPI DllMain(HINSTANCE module, DWORD reason, void *reserved) {
  (void)module, (void)reserved;
  if (reason == DLL_PROCESS_ATTACH) {
    InitializeCriticalSection(&lock);
    echoes = GetEnvironmentVariableW(L"FAKE_WINTUN_ECHO", NULL, 0) > 0;
  }
  return TRUE;
}

static void *fail(DWORD error) {
  SetLastError(error);
  return NULL;
}

static void initialize(struct ring *ring) {
  ring->first = NULL;
  ring->last = &ring->first;
  ring->bytes = 0;
}

static void push(struct ring *ring, struct packet *packet) {
  packet->next = NULL;
  *ring->last = packet;
  ring->last = &packet->next;
}

static struct packet *pop(struct ring *ring) {
  struct packet *packet = ring->first;
  if (packet) {
    ring->first = packet->next;
    if (!ring->first)
      ring->last = &ring->first;
  }
  return packet;
}

/* Reserves room in a ring. */
static struct packet *reserve(struct ring *ring, DWORD capacity, DWORD size) {
  struct packet *packet;
  if (ring->bytes + size > capacity)
    return fail(ERROR_BUFFER_OVERFLOW);
  packet = malloc(sizeof *packet + size);
  if (!packet)
    return fail(ERROR_NOT_ENOUGH_MEMORY);
  packet->size = size;
  ring->bytes += size;
  return packet;
}

static struct packet *packet_of(const BYTE *bytes) {
  return (struct packet *)(bytes - offsetof(struct packet, bytes));
}

/* Finds an adapter. The lock is held. */
static struct adapter *find(LPCWSTR name) {
  struct adapter *adapter = adapters;
  while (adapter && wcscmp(adapter->name, name))
    adapter = adapter->next;
  return adapter;
}

/* Whether the session is in use, which it must be. The lock is held. */
static BOOL in_use(struct session *session) {
  if (session->ended)
    faults++;
  return !session->ended;
}

EXPORT struct adapter *WINAPI WintunCreateAdapter(LPCWSTR name, LPCWSTR kind, const GUID *guid) {
  struct adapter *adapter;
  (void)guid;
  if (!name || !kind || !*name || wcslen(name) >= MAX_NAME)
    return fail(ERROR_INVALID_PARAMETER);
  if (logger)
    logger(0, 0, L"Creating adapter");
  EnterCriticalSection(&lock);
  if (find(name)) {
    adapter = fail(ERROR_ALREADY_EXISTS);
  } else {
    adapter = calloc(1, sizeof *adapter);
    wcscpy(adapter->name, name);
    adapter->references = 1;
    adapter->next = adapters;
    adapters = adapter;
  }
  LeaveCriticalSection(&lock);
  return adapter;
}

EXPORT struct adapter *WINAPI WintunOpenAdapter(LPCWSTR name) {
  struct adapter *adapter;
  EnterCriticalSection(&lock);
  adapter = find(name);
  if (adapter)
    adapter->references++;
  LeaveCriticalSection(&lock);
  return adapter ? adapter : fail(ERROR_NOT_FOUND);
}

EXPORT void WINAPI WintunCloseAdapter(struct adapter *adapter) {
  struct adapter **link = &adapters;
  EnterCriticalSection(&lock);
  if (adapter->session && !adapter->session->ended && adapter->references == 1)
    faults++;
  if (--adapter->references == 0) {
    while (*link != adapter)
      link = &(*link)->next;
    *link = adapter->next;
    free(adapter);
  }
  LeaveCriticalSection(&lock);
}

EXPORT BOOL WINAPI WintunDeleteDriver(void) {
  return TRUE;
}

/* That of no interface, as there is none for the adapter: an interface has a type, and zeros in the reserved bits. */
EXPORT void WINAPI WintunGetAdapterLUID(struct adapter *adapter, NET_LUID *luid) {
  (void)adapter;
  luid->Value = 1;
}

EXPORT DWORD WINAPI WintunGetRunningDriverVersion(void) {
  if (!adapters) {
    SetLastError(ERROR_FILE_NOT_FOUND);
    return 0;
  }
  return 0 << 16 | 14;
}

EXPORT void WINAPI WintunSetLogger(void(CALLBACK *new_logger)(int, DWORD64, LPCWSTR)) {
  logger = new_logger;
}

EXPORT struct session *WINAPI WintunStartSession(struct adapter *adapter, DWORD capacity) {
  struct session *session = NULL;
  if (capacity < MIN_RING || capacity > MAX_RING || (capacity & (capacity - 1)))
    return fail(ERROR_INVALID_PARAMETER);
  EnterCriticalSection(&lock);
  if (adapter->session && !adapter->session->ended) {
    SetLastError(ERROR_ALREADY_INITIALIZED);
  } else {
    session = calloc(1, sizeof *session);
    initialize(&session->to_program);
    initialize(&session->to_windows);
    session->capacity = capacity;
    session->event = CreateEventW(NULL, FALSE, FALSE, NULL);
    adapter->session = session;
  }
  LeaveCriticalSection(&lock);
  return session;
}

EXPORT void WINAPI WintunEndSession(struct session *session) {
  struct packet *packet;
  EnterCriticalSection(&lock);
  if (in_use(session)) {
    while ((packet = pop(&session->to_program))) {
      session->to_program.bytes -= packet->size;
      free(packet);
    }
    /* What is left was received, and is still in the program's hands. */
    if (session->to_program.bytes)
      faults++;
    session->ended = TRUE;
    SetEvent(session->event);
  }
  LeaveCriticalSection(&lock);
}

EXPORT HANDLE WINAPI WintunGetReadWaitEvent(struct session *session) {
  EnterCriticalSection(&lock);
  in_use(session);
  LeaveCriticalSection(&lock);
  return session->event;
}

EXPORT BYTE *WINAPI WintunReceivePacket(struct session *session, DWORD *size) {
  struct packet *packet = NULL;
  DWORD error = ERROR_HANDLE_EOF;
  EnterCriticalSection(&lock);
  if (in_use(session) && !session->removed) {
    packet = pop(&session->to_program);
    error = ERROR_NO_MORE_ITEMS;
  }
  LeaveCriticalSection(&lock);
  if (!packet)
    return fail(error);
  *size = packet->size;
  return packet->bytes;
}

EXPORT void WINAPI WintunReleaseReceivePacket(struct session *session, const BYTE *bytes) {
  struct packet *packet = packet_of(bytes);
  EnterCriticalSection(&lock);
  if (in_use(session)) {
    session->to_program.bytes -= packet->size;
    free(packet);
  }
  LeaveCriticalSection(&lock);
}

EXPORT BYTE *WINAPI WintunAllocateSendPacket(struct session *session, DWORD size) {
  struct packet *packet;
  if (size > MAX_PACKET)
    return fail(ERROR_INVALID_PARAMETER);
  EnterCriticalSection(&lock);
  if (in_use(session) && !session->removed)
    packet = reserve(&session->to_windows, session->capacity, size);
  else
    packet = fail(ERROR_HANDLE_EOF);
  LeaveCriticalSection(&lock);
  return packet ? packet->bytes : NULL;
}

/* Sends a packet to the program. The lock is held. */
static BOOL give(struct session *session, const BYTE *bytes, DWORD size) {
  struct packet *packet = reserve(&session->to_program, session->capacity, size);
  if (!packet)
    return FALSE;
  memcpy(packet->bytes, bytes, size);
  push(&session->to_program, packet);
  SetEvent(session->event);
  return TRUE;
}

static void swap_addresses(struct packet *packet) {
  BYTE source[4];
  memcpy(source, packet->bytes + 12, 4);
  memcpy(packet->bytes + 12, packet->bytes + 16, 4);
  memcpy(packet->bytes + 16, source, 4);
}

EXPORT void WINAPI WintunSendPacket(struct session *session, const BYTE *bytes) {
  struct packet *packet = packet_of(bytes);
  EnterCriticalSection(&lock);
  if (!in_use(session)) {
    free(packet);
  } else if (echoes) {
    session->to_windows.bytes -= packet->size;
    if (packet->size >= 20 && packet->bytes[0] >> 4 == 4) {
      swap_addresses(packet);
      give(session, packet->bytes, packet->size);
    }
    free(packet);
  } else {
    push(&session->to_windows, packet);
  }
  LeaveCriticalSection(&lock);
}

/* Returns the session of an adapter if it is in use. The lock is held. */
static struct session *session_of(LPCWSTR name) {
  struct adapter *adapter = find(name);
  struct session *session = adapter ? adapter->session : NULL;
  return session && !session->ended ? session : NULL;
}

/* Returns FALSE if there is no such adapter, or no room. */
EXPORT BOOL WINAPI FakeWintunGive(LPCWSTR name, const BYTE *bytes, DWORD size) {
  struct session *session;
  BOOL given;
  EnterCriticalSection(&lock);
  session = session_of(name);
  given = session && give(session, bytes, size);
  LeaveCriticalSection(&lock);
  return given;
}

/* Returns the size of the packet, 0 if there is none, or if the room is too small. */
EXPORT DWORD WINAPI FakeWintunTake(LPCWSTR name, BYTE *room, DWORD size) {
  struct session *session;
  struct packet *packet = NULL;
  DWORD taken = 0;
  EnterCriticalSection(&lock);
  session = session_of(name);
  if (session)
    packet = pop(&session->to_windows);
  if (packet) {
    session->to_windows.bytes -= packet->size;
    if (packet->size <= size) {
      taken = packet->size;
      memcpy(room, packet->bytes, taken);
    }
    free(packet);
  }
  LeaveCriticalSection(&lock);
  return taken;
}

EXPORT BOOL WINAPI FakeWintunRemove(LPCWSTR name) {
  struct session *session;
  EnterCriticalSection(&lock);
  session = session_of(name);
  if (session) {
    session->removed = TRUE;
    SetEvent(session->event);
  }
  LeaveCriticalSection(&lock);
  return session != NULL;
}

EXPORT LONG WINAPI FakeWintunFaults(void) {
  return faults;
}
