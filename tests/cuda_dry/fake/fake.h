// What the fake libraries share: they tell the device (device.cpp) what was called.
#pragma once
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Count a call.
void fake_note(const char* what);
// Count a call that is work on a stream: a node, if the stream is captured.
void fake_node(void* stream, const char* what);

// For the checks, by ctypes: forget all counts; write "count<TAB>what" lines; bytes that are allocated now.
void fake_reset(void);
void fake_dump(const char* path);
size_t fake_device_bytes(void);
// How many captures have ended; the n-th is written to $FAKE_GRAPHS.n.
int fake_captures(void);
// Let every capture last so long: what other threads do meanwhile then falls into it.
void fake_slow_captures(int milliseconds);

#ifdef __cplusplus
}
#endif

// A function that is counted, and does nothing.
#define STUB(name) int name(void) { fake_note("STUB " #name); return 0; }
