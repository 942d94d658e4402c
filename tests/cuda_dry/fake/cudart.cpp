// libcudart: memory is the host's, kernels do nothing, captures hold what was launched.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>
#include <unistd.h>

#include "device.h"
#undef cudaGetDeviceProperties

using namespace fake;

namespace {

constexpr size_t GIBIBYTE = 1ull << 30;
std::map<const void*, std::string> kernels;  // the device's name of each kernel, by its function on the host

cudaError_t count(const char* what) {
    Lock lock(mutex);
    counts[what]++;
    return cudaSuccess;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, cudaStream_t stream) {
    Lock lock(mutex);
    auto found = kernels.find(kernel);
    counts["kernel launches"]++;
    if (Graph* graph = captured_by(stream)) graph->nodes.push_back({found == kernels.end() ? "kernel ?" : found->second});
    else if (!stream_of(stream)) unsafe("a kernel on the default stream");
    return cudaSuccess;
}

cudaError_t copy_async(void* target, const void* source, size_t bytes, cudaStream_t stream) {
    Lock lock(mutex);
    std::string what = "cudaMemcpyAsync " + direction(target, source);
    counts[what]++;
    Graph* graph = captured_by(stream);
    if (!graph) {
        if (bytes) memcpy(target, source, bytes);
        return cudaSuccess;
    }
    Node node{what, Node::DEVICE_COPY, target, source, bytes};
    if (!lies_on(DEVICE, source)) {
        node.kind = Node::HOST_COPY;
        node.captured.assign(static_cast<const char*>(source), static_cast<const char*>(source) + bytes);
        counts["CAPTURED copy from the host: " + what]++;
    }
    graph->nodes.push_back(node);
    return cudaSuccess;
}

void replay(const Graph& graph) {
    for (const Node& node : graph.nodes) {
        if (node.kind == Node::WORK || !node.bytes) continue;
        bool is_stale = node.kind == Node::HOST_COPY &&
                        (!lies_on(PINNED, node.source) || memcmp(node.source, node.captured.data(), node.bytes));
        if (is_stale) counts["STALE: a replayed copy reads host memory that changed since the capture"]++;
        else memcpy(node.target, node.source, node.bytes);
    }
}

struct Launch {
    dim3 grid, block;
    size_t shared;
    void* stream;
};
thread_local std::vector<Launch> launches;

int driver_function(void) {
    fake_note("STUB a function of the driver");
    return 0;
}

}  // namespace

extern "C" {

// What the compiler of CUDA puts around kernels.

// A block of machine code, by its place in the library that has it. $FAKE_FATBINS takes a line "library<TAB>place<TAB>kernel"
// for each kernel: so benchmarks/cuda/thin_library.py knows which blocks to keep.
struct FatBinary {
    std::string library;
    size_t place = 0;
};

static FILE* fat_binaries() {
    static const char* path = getenv("FAKE_FATBINS");
    static FILE* file = path ? fopen(path, "w") : nullptr;
    return file;
}

void** CUDARTAPI __cudaRegisterFatBinary(void* wrapper) {
    auto* found = new FatBinary;
    void* data = static_cast<void**>(wrapper)[1];
    Dl_info info;
    if (dladdr(data, &info)) *found = {info.dli_fname, (size_t)data - (size_t)info.dli_fbase};
    return reinterpret_cast<void**>(found);
}

void CUDARTAPI __cudaRegisterFatBinaryEnd(void**) {}
void CUDARTAPI __cudaUnregisterFatBinary(void**) {}
char CUDARTAPI __cudaInitModule(void**) { return 0; }
void CUDARTAPI __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

void CUDARTAPI __cudaRegisterFunction(void** handle, const char* host, char*, const char* device, int, void*, void*, void*, void*, int*) {
    Lock lock(mutex);
    kernels[host] = device;
    auto* block = reinterpret_cast<FatBinary*>(handle);
    if (FILE* file = fat_binaries()) fprintf(file, "%s\t%zu\t%s\n", block->library.c_str(), block->place, device), fflush(file);
}

unsigned CUDARTAPI __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
    launches.push_back({grid, block, shared, stream});
    return 0;
}

cudaError_t CUDARTAPI __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    Launch last = launches.back();
    launches.pop_back();
    *grid = last.grid, *block = last.block, *shared = last.shared, *static_cast<void**>(stream) = last.stream;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaLaunchKernel(const void* f, dim3 g, dim3 b, void**, size_t, cudaStream_t s) { return launch(f, g, b, s); }
cudaError_t CUDARTAPI cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void**) { return launch(f, c->gridDim, c->blockDim, c->stream); }
cudaError_t CUDARTAPI __cudaGetKernel(cudaKernel_t* kernel, const void* f) { *kernel = (cudaKernel_t)f; return cudaSuccess; }
cudaError_t CUDARTAPI __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void**, size_t, cudaStream_t s) { return launch((const void*)k, g, b, s); }

cudaError_t CUDARTAPI cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    {
        Lock lock(mutex);
        if (Graph* graph = captured_by(stream)) {
            counts["CAPTURED host function"]++;
            graph->nodes.push_back({"host function"});
            return cudaSuccess;
        }
    }
    function(data);
    return cudaSuccess;
}

// The device: one, with the sizes of an H200.

cudaError_t CUDARTAPI cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
cudaError_t CUDARTAPI cudaSetDevice(int) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t CUDARTAPI cudaDriverGetVersion(int* version) { *version = 13000; return cudaSuccess; }
cudaError_t CUDARTAPI cudaRuntimeGetVersion(int* version) { *version = 13000; return cudaSuccess; }
cudaError_t CUDARTAPI cudaMemGetInfo(size_t* left, size_t* total) { *left = 139 * GIBIBYTE, *total = 140 * GIBIBYTE; return cudaSuccess; }
cudaError_t CUDARTAPI cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { *least = 0, *greatest = -5; return cudaSuccess; }
cudaError_t CUDARTAPI cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { *pool = (cudaMemPool_t)8; return cudaSuccess; }
cudaError_t CUDARTAPI cudaDeviceGetPCIBusId(char* text, int size, int) { snprintf(text, size, "0000:01:00.0"); return cudaSuccess; }
cudaError_t CUDARTAPI cudaDeviceCanAccessPeer(int* can, int, int) { *can = 0; return cudaSuccess; }

cudaError_t CUDARTAPI cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "No GPU (fake CUDA)");
    p->major = 9, p->minor = 0, p->multiProcessorCount = 132, p->warpSize = 32;
    p->totalGlobalMem = 140 * GIBIBYTE, p->l2CacheSize = 60 << 20;
    p->sharedMemPerBlock = 49152, p->sharedMemPerMultiprocessor = 233472, p->sharedMemPerBlockOptin = 232448;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->maxThreadsPerBlock = 1024, p->maxThreadsPerMultiProcessor = 2048, p->maxBlocksPerMultiProcessor = 32;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->memoryPoolsSupported = p->canMapHostMemory = p->unifiedAddressing = p->concurrentKernels = 1, p->asyncEngineCount = 3;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    static const std::map<int, int> VALUES = {
        {cudaDevAttrMaxThreadsPerBlock, 1024}, {cudaDevAttrMultiProcessorCount, 132},
        {cudaDevAttrMaxThreadsPerMultiProcessor, 2048}, {cudaDevAttrComputeCapabilityMajor, 9},
        {cudaDevAttrComputeCapabilityMinor, 0}, {cudaDevAttrWarpSize, 32},
        {cudaDevAttrMaxSharedMemoryPerBlock, 49152}, {cudaDevAttrMaxSharedMemoryPerBlockOptin, 232448},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 233472}, {cudaDevAttrMaxGridDimX, 2147483647},
        {cudaDevAttrL2CacheSize, 60 << 20}, {cudaDevAttrMaxBlocksPerMultiprocessor, 32}};
    auto found = VALUES.find(attribute);
    *value = found == VALUES.end() ? 1 : found->second;
    return cudaSuccess;
}

// Memory.

static cudaError_t allocate_counted(Place place, void** pointer, size_t bytes, const char* call) {
    Lock lock(mutex);
    unsafe(call);
    counts[call]++;
    *pointer = allocate(place, bytes);
    return cudaSuccess;
}

static cudaError_t release_counted(Place place, void* pointer, const char* call) {
    Lock lock(mutex);
    unsafe(call);
    counts[call]++;
    release(place, pointer);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMalloc(void** p, size_t n) { return allocate_counted(DEVICE, p, n, "cudaMalloc"); }
cudaError_t CUDARTAPI cudaFree(void* p) { return release_counted(DEVICE, p, "cudaFree"); }
cudaError_t CUDARTAPI cudaMallocHost(void** p, size_t n) { return allocate_counted(PINNED, p, n, "cudaHostAlloc"); }
cudaError_t CUDARTAPI cudaHostAlloc(void** p, size_t n, unsigned) { return allocate_counted(PINNED, p, n, "cudaHostAlloc"); }
cudaError_t CUDARTAPI cudaFreeHost(void* p) { return release_counted(PINNED, p, "cudaFreeHost"); }

cudaError_t CUDARTAPI cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
    fake_node(stream, "cudaMallocAsync");
    Lock lock(mutex);
    *pointer = allocate(DEVICE, bytes);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaFreeAsync(void* pointer, cudaStream_t stream) {
    fake_node(stream, "cudaFreeAsync");
    Lock lock(mutex);
    release(DEVICE, pointer);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaPointerGetAttributes(cudaPointerAttributes* found, const void* pointer) {
    Lock lock(mutex);
    memset(found, 0, sizeof *found);
    found->type = lies_on(DEVICE, pointer)   ? cudaMemoryTypeDevice
                  : lies_on(PINNED, pointer) ? cudaMemoryTypeHost
                                             : cudaMemoryTypeUnregistered;
    found->devicePointer = const_cast<void*>(pointer);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaHostGetDevicePointer(void** device, void* host, unsigned) { *device = host; return cudaSuccess; }

cudaError_t CUDARTAPI cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind) {
    Lock lock(mutex);
    unsafe("cudaMemcpy");
    counts["cudaMemcpy " + direction(target, source)]++;
    memcpy(target, source, bytes);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return copy_async(target, source, bytes, stream);
}

cudaError_t CUDARTAPI cudaMemset(void* target, int value, size_t bytes) {
    Lock lock(mutex);
    unsafe("cudaMemset");
    memset(target, value, bytes);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
    fake_node(stream, "cudaMemsetAsync");
    Lock lock(mutex);
    if (!captured_by(stream)) memset(target, value, bytes);
    return cudaSuccess;
}

// Streams and events.

cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    *stream = (cudaStream_t) new Stream{flags};
    return count("cudaStreamCreate");
}

cudaError_t CUDARTAPI cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t CUDARTAPI cudaStreamCreateWithPriority(cudaStream_t* s, unsigned flags, int) { return cudaStreamCreateWithFlags(s, flags); }
cudaError_t CUDARTAPI cudaStreamDestroy(cudaStream_t) { return count("cudaStreamDestroy"); }
cudaError_t CUDARTAPI cudaStreamGetPriority(cudaStream_t, int* priority) { *priority = 0; return cudaSuccess; }
cudaError_t CUDARTAPI cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return count("cudaStreamWaitEvent"); }

cudaError_t CUDARTAPI cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    Stream* found = stream_of(stream);
    *flags = found ? found->flags : 0;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t stream) {
    Lock lock(mutex);
    if (captured_by(stream) || !stream_of(stream)) unsafe("cudaStreamSynchronize");
    counts[stream_of(stream) ? "cudaStreamSynchronize" : "cudaStreamSynchronize of the default stream"]++;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceSynchronize() {
    Lock lock(mutex);
    unsafe("cudaDeviceSynchronize");
    counts["cudaDeviceSynchronize"]++;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaStreamQuery(cudaStream_t stream) {
    Lock lock(mutex);
    if (captured_by(stream)) unsafe("cudaStreamQuery");
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { *event = (cudaEvent_t) new int; return cudaSuccess; }
cudaError_t CUDARTAPI cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t event) { delete (int*)event; return cudaSuccess; }
cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t, cudaStream_t) { return count("cudaEventRecord"); }
cudaError_t CUDARTAPI cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) { *milliseconds = 1; return cudaSuccess; }

static cudaError_t wait_for_event(const char* call) {
    Lock lock(mutex);
    unsafe(call);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaEventQuery(cudaEvent_t) { return wait_for_event("cudaEventQuery"); }
cudaError_t CUDARTAPI cudaEventSynchronize(cudaEvent_t) { return wait_for_event("cudaEventSynchronize"); }

// Captures.

cudaError_t CUDARTAPI cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* wanted) {
    std::swap(*wanted, mode);
    return count("cudaThreadExchangeStreamCaptureMode");
}

cudaError_t CUDARTAPI cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    Lock lock(mutex);
    begin_capture(stream_of(stream));
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    usleep(1000 * capture_milliseconds);
    Lock lock(mutex);
    *graph = (cudaGraph_t)end_capture(stream_of(stream));
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    Lock lock(mutex);
    *status = captured_by(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

// A graph that can be launched is a copy: onnxruntime destroys the captured one.
cudaError_t CUDARTAPI cudaGraphInstantiate(cudaGraphExec_t* copy, cudaGraph_t graph, unsigned long long) {
    *copy = (cudaGraphExec_t) new Graph(*(Graph*)graph);
    return count("cudaGraphInstantiate");
}

cudaError_t CUDARTAPI cudaGraphInstantiateWithFlags(cudaGraphExec_t* copy, cudaGraph_t graph, unsigned long long flags) {
    return cudaGraphInstantiate(copy, graph, flags);
}

cudaError_t CUDARTAPI cudaGraphDestroy(cudaGraph_t graph) { delete (Graph*)graph; return cudaSuccess; }
cudaError_t CUDARTAPI cudaGraphExecDestroy(cudaGraphExec_t graph) { delete (Graph*)graph; return count("cudaGraphExecDestroy"); }

cudaError_t CUDARTAPI cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
    Lock lock(mutex);
    counts["cudaGraphLaunch"]++;
    replay(*(Graph*)graph);
    return cudaSuccess;
}

// The rest.

cudaError_t CUDARTAPI cudaGetLastError() { return cudaSuccess; }
cudaError_t CUDARTAPI cudaPeekAtLastError() { return cudaSuccess; }
const char* CUDARTAPI cudaGetErrorString(cudaError_t) { return "an error of the fake CUDA"; }
const char* CUDARTAPI cudaGetErrorName(cudaError_t) { return "fake"; }

cudaError_t CUDARTAPI cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
    memset(found, 0, sizeof *found);
    found->maxThreadsPerBlock = 1024, found->numRegs = 32, found->binaryVersion = found->ptxVersion = 90;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { *n = 2; return cudaSuccess; }
cudaError_t CUDARTAPI cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) { *n = 2; return cudaSuccess; }
cudaError_t CUDARTAPI cudaGetSymbolAddress(void** address, const void*) { static char block[1 << 16]; *address = block; return cudaSuccess; }

cudaError_t CUDARTAPI cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
    *function = (void*)driver_function;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

}  // extern "C"
