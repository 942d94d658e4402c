// Functions of libcudart that onnxruntime's library names and char-RNNs never call.
#include "fake.h"

STUB(cudaEventRecordWithFlags)
STUB(cudaKernelSetAttributeForDevice)
STUB(cudaLaunchCooperativeKernel)
STUB(cudaLibraryGetKernel)
STUB(cudaLibraryLoadData)
STUB(cudaLibraryUnload)
STUB(cudaMallocFromPoolAsync)
STUB(cudaMemPoolCreate)
STUB(cudaMemPoolDestroy)
STUB(cudaMemPoolGetAttribute)
STUB(cudaMemPoolSetAttribute)
STUB(cudaMemPoolTrimTo)
STUB(cudaMemcpy2DAsync)
STUB(cudaMemcpyFromSymbol)
