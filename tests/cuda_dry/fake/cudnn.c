// libcudnn: its only call in graphs of char-RNNs is a reduction.
#include <stdlib.h>

#include "fake.h"

enum { OPAQUE = 256, VERSION = 91300, CUDA_VERSION = 13000, WORKSPACE = 1024 };

struct Handle {
    void* stream;
};

int cudnnCreate(struct Handle** handle) {
    *handle = calloc(1, sizeof **handle);
    fake_note("cudnnCreate");
    return 0;
}

int cudnnDestroy(struct Handle* handle) {
    free(handle);
    return 0;
}

int cudnnSetStream(struct Handle* handle, void* stream) {
    handle->stream = stream;
    return 0;
}

size_t cudnnGetVersion(void) { return VERSION; }
size_t cudnnGetCudartVersion(void) { return CUDA_VERSION; }
const char* cudnnGetErrorString(int error) { return "an error of the fake cuDNN"; }

int cudnnGetReductionWorkspaceSize(void* handle, void* reduction, void* a, void* c, size_t* bytes) {
    *bytes = WORKSPACE;
    return 0;
}

int cudnnGetReductionIndicesSize(void* handle, void* reduction, void* a, void* c, size_t* bytes) {
    *bytes = 0;
    return 0;
}

int cudnnReduceTensor(struct Handle* handle) {
    fake_node(handle->stream, "cudnnReduceTensor");
    return 0;
}

#define CREATE(name) \
    int name(void** object) { \
        *object = calloc(1, OPAQUE); \
        return 0; \
    }
CREATE(cudnnBackendCreateDescriptor)
CREATE(cudnnCreateActivationDescriptor)
CREATE(cudnnCreateConvolutionDescriptor)
CREATE(cudnnCreateDropoutDescriptor)
CREATE(cudnnCreateFilterDescriptor)
CREATE(cudnnCreateLRNDescriptor)
CREATE(cudnnCreatePoolingDescriptor)
CREATE(cudnnCreateRNNDataDescriptor)
CREATE(cudnnCreateRNNDescriptor)
CREATE(cudnnCreateReduceTensorDescriptor)
CREATE(cudnnCreateTensorDescriptor)

STUB(cudnnActivationForward)
STUB(cudnnAddTensor)
STUB(cudnnBackendDestroyDescriptor)
STUB(cudnnBackendExecute)
STUB(cudnnBackendFinalize)
STUB(cudnnBackendGetAttribute)
STUB(cudnnBackendSetAttribute)
STUB(cudnnBatchNormalizationForwardInference)
STUB(cudnnBatchNormalizationForwardTraining)
STUB(cudnnConvolutionBiasActivationForward)
STUB(cudnnConvolutionForward)
STUB(cudnnDeriveBNTensorDescriptor)
STUB(cudnnDestroyActivationDescriptor)
STUB(cudnnDestroyConvolutionDescriptor)
STUB(cudnnDestroyDropoutDescriptor)
STUB(cudnnDestroyFilterDescriptor)
STUB(cudnnDestroyLRNDescriptor)
STUB(cudnnDestroyPoolingDescriptor)
STUB(cudnnDestroyRNNDataDescriptor)
STUB(cudnnDestroyRNNDescriptor)
STUB(cudnnDestroyReduceTensorDescriptor)
STUB(cudnnDestroyTensorDescriptor)
STUB(cudnnDropoutGetStatesSize)
STUB(cudnnFindConvolutionForwardAlgorithmEx)
STUB(cudnnGetConvolutionForwardAlgorithm_v7)
STUB(cudnnGetConvolutionForwardWorkspaceSize)
STUB(cudnnGetLastErrorString)
STUB(cudnnGetRNNTempSpaceSizes)
STUB(cudnnGetRNNWeightParams)
STUB(cudnnGetStream)
STUB(cudnnGetTensorNdDescriptor)
STUB(cudnnLRNCrossChannelForward)
STUB(cudnnPoolingForward)
STUB(cudnnRNNForward)
STUB(cudnnSetActivationDescriptor)
STUB(cudnnSetConvolutionGroupCount)
STUB(cudnnSetConvolutionMathType)
STUB(cudnnSetConvolutionNdDescriptor)
STUB(cudnnSetDropoutDescriptor)
STUB(cudnnSetFilterNdDescriptor)
STUB(cudnnSetLRNDescriptor)
STUB(cudnnSetPoolingNdDescriptor)
STUB(cudnnSetRNNDataDescriptor)
STUB(cudnnSetRNNDescriptor_v8)
STUB(cudnnSetReduceTensorDescriptor)
STUB(cudnnSetTensorNdDescriptor)
STUB(cudnnSoftmaxForward)
