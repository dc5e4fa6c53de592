// The library behind fake_cuda.h. Each function takes the name that cuda.h gives the call today, as
// the real library exports it.
#include "tests/support/fake_cuda.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "templates/params.cuh"
#include "tests/support/fake_cubin.h"

using kiln::test::FakeCubin;
using kiln::test::FakeCuda;
using kiln::test::FakeDevice;
using kiln::test::FakeLaunch;
using kiln::test::FakeTensorMap;

namespace {

FakeCuda state;
std::array<char, 16> contexts;  // their addresses are the handles: primary ones, then others
thread_local std::vector<CUcontext> context_stack;
thread_local CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

CUcontext context_handle(int index) {
  return reinterpret_cast<CUcontext>(&contexts[static_cast<std::size_t>(index)]);
}
CUcontext current() { return context_stack.empty() ? nullptr : context_stack.back(); }

struct Library {
  FakeCubin cubin;
  CUcontext context = nullptr;
};

std::atomic<int>& counter_of(const char* name) {
  for (FakeCuda::Counter& counter : state.counters) {
    const char* expected = nullptr;
    if (counter.name.compare_exchange_strong(expected, name) || std::strcmp(expected, name) == 0)
      return counter.count;
  }
  std::abort();  // more kinds of calls than counters
}

// Counts a call under its original name; the slot is looked up once per call site.
#define COUNT(name)                                         \
  static std::atomic<int>& calls_so_far = counter_of(name); \
  calls_so_far.fetch_add(1, std::memory_order_relaxed)

bool forbidden_by_capture() {
  if (state.capturing == nullptr || capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  state.capture_invalidated = true;
  return true;
}

// What is left of a capture: what its events are at each replay.
struct Graph {
  std::vector<std::pair<std::uint64_t*, std::uint64_t>> events;
};
Graph captured;

// With FAKE_CUDA_RESULTS=right in the environment the checking kernel says that what it looked at is
// right. Without, it does nothing, like all kernels here.
void check_if_asked(const Library& library, const void* params) {
  const char* results = std::getenv("FAKE_CUDA_RESULTS");
  if (results == nullptr || std::string(results) != "right") return;
  if (library.cubin.entry.find("check_reference") == std::string::npos) return;
  double* const sums = static_cast<const kiln::device::ReferenceParams*>(params)->sums;
  for (int i = 0; i < 3; ++i) sums[i] += 1;
}

const FakeDevice* device_at(CUdevice device) {
  return device >= 0 && device < state.device_count
             ? &state.devices[static_cast<std::size_t>(device)]
             : nullptr;
}

}  // namespace

extern "C" {

FakeCuda* kiln_fake_cuda_state() { return &state; }
CUcontext kiln_fake_cuda_context(int index) { return context_handle(index); }
CUcontext kiln_fake_cuda_current() { return current(); }
void kiln_fake_cuda_set_current(CUcontext context) {
  context_stack.clear();
  if (context != nullptr) context_stack.push_back(context);
}

CUresult cuInit(unsigned) {
  COUNT("cuInit");
  return state.init_result;
}

// Not called by Kiln but by NVRTC, when it finds this library in place of the driver.
CUresult cuGetExportTable(const void** table, const CUuuid*) {
  *table = nullptr;
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuDriverGetVersion(int* version) {
  COUNT("cuDriverGetVersion");
  *version = state.driver_version;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  COUNT("cuGetErrorName");
  switch (error) {
    case CUDA_ERROR_INVALID_IMAGE: *name = "CUDA_ERROR_INVALID_IMAGE"; return CUDA_SUCCESS;
    case CUDA_ERROR_OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; return CUDA_SUCCESS;
    case CUDA_ERROR_ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; return CUDA_SUCCESS;
    case CUDA_ERROR_NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuGetErrorString(CUresult, const char** text) {
  COUNT("cuGetErrorString");
  *text = "a simulated error";
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  COUNT("cuDeviceGetCount");
  *count = state.device_count;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  COUNT("cuDeviceGet");
  *device = ordinal;
  return device_at(ordinal) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  COUNT("cuDeviceGetName");
  std::snprintf(name, static_cast<std::size_t>(length), "%s", device_at(device)->name);
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
  COUNT("cuDeviceGetAttribute");
  const FakeDevice* const info = device_at(device);
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = info->major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = info->minor; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = info->num_sms; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = 232448; break;
    default: *value = 1; break;
  }
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) {
  COUNT("cuDeviceTotalMem");
  *bytes = std::size_t{1} << 37;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  COUNT("cuDevicePrimaryCtxRetain");
  *context = context_handle(device);
  ++state.retained_contexts;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  COUNT("cuDevicePrimaryCtxRelease");
  --state.retained_contexts;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  COUNT("cuCtxGetCurrent");
  *context = current();
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  COUNT("cuCtxGetDevice");
  *device = static_cast<CUdevice>(reinterpret_cast<char*>(current()) - contexts.data());
  return current() != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuCtxPushCurrent(CUcontext context) {
  COUNT("cuCtxPushCurrent");
  if (state.push_result == CUDA_SUCCESS) context_stack.push_back(context);
  return state.push_result;
}

CUresult cuCtxPopCurrent(CUcontext* context) {
  COUNT("cuCtxPopCurrent");
  if (context_stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
  *context = current();
  context_stack.pop_back();
  return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  COUNT("cuThreadExchangeStreamCaptureMode");
  std::swap(*mode, capture_mode);
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  COUNT("cuStreamIsCapturing");
  const bool legacy = stream == nullptr || stream == CU_STREAM_LEGACY;
  if (legacy && current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (legacy && state.capturing != nullptr && state.capture_is_blocking)
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  const bool active = state.capturing != nullptr && stream == state.capturing;
  *status = active ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned,
                           CUlibraryOption*, void**, unsigned) {
  COUNT("cuLibraryLoadData");
  if (forbidden_by_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (state.load_result != CUDA_SUCCESS) return state.load_result;
  if (state.failing_loads.fetch_sub(1) > 0) return CUDA_ERROR_INVALID_IMAGE;
  state.failing_loads = 0;
  const std::optional<FakeCubin> cubin = kiln::test::read_fake_cubin(code);
  if (!cubin) return CUDA_ERROR_INVALID_IMAGE;
  if (current() == nullptr) ++state.loads_in_wrong_context;
  *library = reinterpret_cast<CUlibrary>(new Library{*cubin, current()});
  ++state.loaded_libraries;
  return CUDA_SUCCESS;
}

CUresult cuLibraryUnload(CUlibrary library) {
  COUNT("cuLibraryUnload");
  if (forbidden_by_capture()) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  delete reinterpret_cast<Library*>(library);
  --state.loaded_libraries;
  return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  COUNT("cuLibraryGetKernel");
  *kernel = reinterpret_cast<CUkernel>(library);
  return reinterpret_cast<Library*>(library)->cubin.entry == name ? CUDA_SUCCESS
                                                                  : CUDA_ERROR_NOT_FOUND;
}

CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  COUNT("cuKernelGetFunction");
  *function = reinterpret_cast<CUfunction>(kernel);
  return current() != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuKernelGetParamInfo(CUkernel kernel, std::size_t index, std::size_t* offset,
                              std::size_t* bytes) {
  COUNT("cuKernelGetParamInfo");
  if (index > 0) return CUDA_ERROR_INVALID_VALUE;
  *offset = 0;
  *bytes = static_cast<std::size_t>(reinterpret_cast<Library*>(kernel)->cubin.param_bytes);
  return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction) {
  COUNT("cuFuncLoad");
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
  COUNT("cuFuncGetAttribute");
  const FakeCubin& cubin = reinterpret_cast<Library*>(function)->cubin;
  switch (which) {
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = cubin.registers + state.extra_registers; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = cubin.static_smem_bytes; break;
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = cubin.threads; break;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  COUNT("cuFuncSetAttribute");
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* extents, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
  COUNT("cuTensorMapEncodeTiled");
  if (state.encode_result != CUDA_SUCCESS) return state.encode_result;
  FakeTensorMap record{};
  static_assert(sizeof(record) <= sizeof(CUtensorMap));
  record.address = reinterpret_cast<std::uintptr_t>(address);
  std::copy_n(extents, rank, record.extents);
  record.stride_bytes = strides[0];
  record.slice_stride_bytes = rank > 2 ? strides[1] : 0;
  std::copy_n(box, rank, record.box);
  record.type = static_cast<std::uint8_t>(type);
  record.swizzle = static_cast<std::uint8_t>(swizzle);
  record.promotion = static_cast<std::uint8_t>(promotion);
  record.rank = static_cast<std::uint8_t>(rank);
  record.fill = static_cast<std::uint8_t>(fill);
  std::memcpy(static_cast<void*>(map), &record, sizeof(record));
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params,
                          void**) {
  COUNT("cuLaunchKernelEx");
  const auto* const library = reinterpret_cast<const Library*>(function);
  if (current() != library->context) return CUDA_ERROR_INVALID_CONTEXT;
  if (state.launch_result != CUDA_SUCCESS) return state.launch_result;
  check_if_asked(*library, params[0]);
  const std::uint64_t index = state.launches.fetch_add(1, std::memory_order_relaxed);
  static std::atomic_flag recording;
  if (recording.test_and_set(std::memory_order_acquire)) return CUDA_SUCCESS;  // one will do
  FakeLaunch& launch = state.last_launch;
  launch.grid_x = config->gridDimX;
  launch.grid_y = config->gridDimY;
  launch.grid_z = config->gridDimZ;
  launch.threads = config->blockDimX * config->blockDimY * config->blockDimZ;
  launch.smem_bytes = config->sharedMemBytes;
  launch.cluster_x = 0;
  launch.programmatic = false;
  launch.stream = config->hStream;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
      launch.cluster_x = attribute.value.clusterDim.x;
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
      launch.programmatic = attribute.value.programmaticStreamSerializationAllowed != 0;
    }
  }
  const std::size_t name_bytes = std::min(sizeof(launch.kernel) - 1, library->cubin.entry.size());
  std::memcpy(launch.kernel, library->cubin.entry.data(), name_bytes);
  launch.kernel[name_bytes] = '\0';
  launch.param_bytes = static_cast<unsigned>(library->cubin.param_bytes);
  std::memcpy(launch.params.data(), params[0],
              std::min<std::size_t>(launch.param_bytes, launch.params.size()));
  state.history[index % state.history.size()] = launch;
  recording.clear(std::memory_order_release);
  return CUDA_SUCCESS;
}

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
