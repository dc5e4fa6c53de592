// The second half of the fake driver: memory, streams, events, captures and graphs.
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/support/fake_cuda_state.h"

using kiln::test::driver::current;
using kiln::test::driver::state;

namespace {

// What is left of a capture: what its events are at each replay.
struct Graph {
  std::vector<std::pair<std::uint64_t*, std::uint64_t>> events;
};
Graph captured;

}  // namespace

extern "C" {

CUresult cuMemAlloc(CUdeviceptr* address, std::size_t bytes) {
  COUNT("cuMemAlloc");
  if (current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  void* const memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  *address = reinterpret_cast<CUdeviceptr>(memory);
  return memory != nullptr ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuMemFree(CUdeviceptr address) {
  COUNT("cuMemFree");
  std::free(reinterpret_cast<void*>(address));
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, std::size_t bytes) {
  COUNT("cuMemcpyHtoD");
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t bytes) {
  COUNT("cuMemcpyDtoH");
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  COUNT("cuMemcpyDtoHAsync");
  if (state.capturing != nullptr && stream == state.capturing) {
    state.capture_invalidated = true;  // a copy to pageable memory cannot be captured
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream) {
  COUNT("cuMemcpyDtoDAsync");
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream) {
  COUNT("cuMemsetD8Async");
  // What only flushes L2 is left as it is: nobody reads it, and it would take all the memory.
  constexpr std::size_t kFlushBytes = std::size_t{256} << 20;
  if (bytes >= kFlushBytes) return CUDA_SUCCESS;
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream* stream, unsigned) {
  COUNT("cuStreamCreate");
  *stream = reinterpret_cast<CUstream>(new char);
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
  COUNT("cuStreamDestroy");
  delete reinterpret_cast<char*>(stream);
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
  COUNT("cuStreamSynchronize");
  if (state.capturing != nullptr && stream == state.capturing) {
    state.capture_invalidated = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

// An event knows how many launches came before it.
CUresult cuEventCreate(CUevent* event, unsigned) {
  COUNT("cuEventCreate");
  *event = reinterpret_cast<CUevent>(new std::uint64_t{0});
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  COUNT("cuEventDestroy");
  delete reinterpret_cast<std::uint64_t*>(event);
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream) {
  COUNT("cuEventRecord");
  *reinterpret_cast<std::uint64_t*>(event) = state.launches;
  return CUDA_SUCCESS;
}

CUresult cuEventRecordWithFlags(CUevent event, CUstream, unsigned) {
  COUNT("cuEventRecordWithFlags");
  captured.events.emplace_back(reinterpret_cast<std::uint64_t*>(event), state.launches.load());
  *reinterpret_cast<std::uint64_t*>(event) = state.launches;
  return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent) {
  COUNT("cuEventSynchronize");
  return CUDA_SUCCESS;
}

// A launch takes 1 ms; nothing at all 0.25 ms, as events have a price.
CUresult cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
  COUNT("cuEventElapsedTime");
  const std::uint64_t launches =
      *reinterpret_cast<std::uint64_t*>(end) - *reinterpret_cast<std::uint64_t*>(begin);
  *milliseconds = launches == 0 ? 0.25f : static_cast<float>(launches);
  return CUDA_SUCCESS;
}

// What is captured is done at once; its replays only set its events.
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) {
  COUNT("cuStreamBeginCapture");
  if (state.capturing != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  state.capturing = stream;
  state.capture_invalidated = false;
  captured.events.clear();
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  COUNT("cuStreamEndCapture");
  if (state.capturing != stream) return CUDA_ERROR_ILLEGAL_STATE;
  state.capturing = nullptr;
  *graph = nullptr;
  if (state.capture_invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = reinterpret_cast<CUgraph>(new Graph(captured));
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) {
  COUNT("cuGraphInstantiateWithFlags");
  *exec = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream) {
  COUNT("cuGraphLaunch");
  for (const auto& [event, value] : reinterpret_cast<Graph*>(exec)->events) *event = value;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  COUNT("cuGraphDestroy");
  delete reinterpret_cast<Graph*>(graph);
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
  COUNT("cuGraphExecDestroy");
  delete reinterpret_cast<Graph*>(exec);
  return CUDA_SUCCESS;
}

}  // extern "C"
