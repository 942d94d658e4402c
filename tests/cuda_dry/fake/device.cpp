#include "device.h"

#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace fake {

std::recursive_mutex mutex;
std::map<std::string, long> counts;
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
int capture_milliseconds = 0;

namespace {

std::map<const void*, size_t> memory[2];
std::map<Stream*, std::thread::id> captures;  // that are going on, and the threads that began them
int ended = 0;
// Larger blocks are not cleared: the system gives their pages when they are used, and that is never.
constexpr size_t CLEARED = 64u << 20;
constexpr size_t ALIGNMENT = 512;

std::string demangled(const std::string& name) {
    int status = 0;
    char* text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status);
    std::string found = status == 0 ? text : name;
    free(text);
    return found;
}

// Write the nodes of the n-th capture to $FAKE_GRAPHS.n, a line each.
void write_graph(const Graph& graph, int number) {
    const char* prefix = getenv("FAKE_GRAPHS");
    FILE* file = prefix ? fopen((prefix + ("." + std::to_string(number))).c_str(), "w") : nullptr;
    if (!file) return;
    for (const Node& node : graph.nodes) fprintf(file, "%s\n", demangled(node.what).c_str());
    fclose(file);
}

}  // namespace

Graph* captured_by(void* handle) {
    Stream* stream = stream_of(handle);
    return stream ? stream->graph : nullptr;
}

void begin_capture(Stream* stream) {
    stream->graph = new Graph;
    captures[stream] = std::this_thread::get_id();
    counts["captures"]++;
}

Graph* end_capture(Stream* stream) {
    Graph* graph = stream->graph;
    stream->graph = nullptr;
    captures.erase(stream);
    write_graph(*graph, ended++);
    return graph;
}

void unsafe(const std::string& call) {
    if (mode == cudaStreamCaptureModeRelaxed) return;
    for (const auto& [stream, thread] : captures)
        if (mode == cudaStreamCaptureModeGlobal || thread == std::this_thread::get_id()) {
            counts["VIOLATION during capture: " + call]++;
            return;
        }
}

void* allocate(Place place, size_t bytes) {
    void* pointer = nullptr;
    if (posix_memalign(&pointer, ALIGNMENT, bytes ? bytes : 1)) return nullptr;
    if (bytes < CLEARED) memset(pointer, 0, bytes);
    memory[place][pointer] = bytes;
    return pointer;
}

void release(Place place, void* pointer) {
    memory[place].erase(pointer);
    free(pointer);
}

bool lies_on(Place place, const void* pointer) {
    auto next = memory[place].upper_bound(pointer);
    if (next == memory[place].begin()) return false;
    const auto& [begin, bytes] = *--next;
    return static_cast<const char*>(pointer) < static_cast<const char*>(begin) + bytes;
}

std::string direction(const void* target, const void* source) {
    auto place = [](const void* p) { return lies_on(DEVICE, p) ? "device" : lies_on(PINNED, p) ? "pinned" : "pageable"; };
    return std::string(place(source)) + "->" + place(target);
}

}  // namespace fake

using namespace fake;

extern "C" {

void fake_note(const char* what) {
    Lock lock(mutex);
    counts[what]++;
}

void fake_node(void* stream, const char* what) {
    Lock lock(mutex);
    counts[what]++;
    if (Graph* graph = captured_by(stream)) graph->nodes.push_back({what});
}

void fake_reset(void) {
    Lock lock(mutex);
    counts.clear();
}

void fake_dump(const char* path) {
    Lock lock(mutex);
    FILE* file = fopen(path, "w");
    for (const auto& [what, count] : counts) fprintf(file, "%ld\t%s\n", count, what.c_str());
    fclose(file);
}

size_t fake_device_bytes(void) {
    Lock lock(mutex);
    size_t bytes = 0;
    for (const auto& [pointer, size] : memory[DEVICE]) bytes += size;
    return bytes;
}

int fake_captures(void) {
    Lock lock(mutex);
    return ended;
}

void fake_slow_captures(int milliseconds) { capture_milliseconds = milliseconds; }

}  // extern "C"
