// The device that does not exist: its memory, its streams, and what a capture holds and forbids.
#pragma once
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "fake.h"

namespace fake {

// What a graph holds. A copy from the host keeps what it read when it was captured, to see whether that changes.
struct Node {
    enum Kind { WORK, DEVICE_COPY, HOST_COPY };
    std::string what;
    Kind kind = WORK;
    void* target = nullptr;
    const void* source = nullptr;
    size_t bytes = 0;
    std::vector<char> captured{};
};

struct Graph {
    std::vector<Node> nodes;
};

struct Stream {
    unsigned flags;
    Graph* graph = nullptr;  // that is being captured
};

// All functions below are to be called with this lock.
extern std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

extern std::map<std::string, long> counts;
// The mode of this thread: which captures forbid it unsafe calls.
extern thread_local cudaStreamCaptureMode mode;

// The handles 0, 1 and 2 are the default streams, which cannot be captured.
inline Stream* stream_of(void* handle) { return (size_t)handle > 2 ? static_cast<Stream*>(handle) : nullptr; }
Graph* captured_by(void* stream);

void begin_capture(Stream* stream);
Graph* end_capture(Stream* stream);
extern int capture_milliseconds;

// Count a violation if this call is forbidden now: see cudaThreadExchangeStreamCaptureMode in NVIDIA's documentation.
void unsafe(const std::string& call);

enum Place { DEVICE, PINNED };
void* allocate(Place place, size_t bytes);
void release(Place place, void* pointer);
bool lies_on(Place place, const void* pointer);
// "pageable->device", for example.
std::string direction(const void* target, const void* source);

}  // namespace fake
