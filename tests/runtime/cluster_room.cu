// How many clusters of each size a GPU has room for at a time, of CTAs that fill an SM as those of
// Kiln's large tiles do. Not part of the build:
//   nvcc -arch=sm_90 -o cluster_room tests/runtime/cluster_room.cu && ./cluster_room
#include <cuda_runtime.h>

#include <cstdio>

__global__ void kernel(int* out) {
  extern __shared__ int shared[];
  if (out != nullptr) out[0] = shared[0];
}

int main() {
  constexpr int kSharedBytes = 220000;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  for (const int size : {1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16}) {
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = size;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(size * 200);
    config.blockDim = dim3(384);
    config.dynamicSmemBytes = kSharedBytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = -1;
    const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    std::printf("clusters of %d: %d, %d SMs, %s\n", size, clusters, size * clusters,
                cudaGetErrorString(error));
  }
}
