// The library behind fake_cuda.h. Each function takes the name that cuda.h gives the call today, as
// the real library exports it.
#include "tests/support/fake_cuda.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "templates/params.cuh"
#include "tests/support/fake_cubin.h"
#include "tests/support/fake_cuda_state.h"
#include "tools/sim/hopper_attribute.h"

using kiln::test::FakeCubin;
using kiln::test::FakeCuda;
using kiln::test::FakeDevice;
using kiln::test::FakeLaunch;
using kiln::test::FakeTensorMap;
using kiln::test::FakeThread;
using kiln::test::driver::context_stack;
using kiln::test::driver::current;
using kiln::test::driver::state;
using kiln::test::driver::thread;

namespace kiln::test::driver {

FakeCuda state;
thread_local FakeThread thread;
thread_local std::vector<CUcontext> context_stack;

std::atomic<int>& counter_of(const char* name) {
  for (FakeCuda::Counter& counter : state.counters) {
    const char* expected = nullptr;
    if (counter.name.compare_exchange_strong(expected, name) || std::strcmp(expected, name) == 0)
      return counter.count;
  }
  std::abort();  // more kinds of calls than counters
}

CUresult injected_fault(const char* call) {
  const std::uint32_t rate = state.faults_per_million.load(std::memory_order_relaxed);
  if (rate == 0 || thread.is_spared) return CUDA_SUCCESS;
  thread.random = thread.random * 6364136223846793005u + 1442695040888963407u;
  const auto draw = static_cast<std::uint32_t>(thread.random >> 33);
  if (draw % 1'000'000 >= rate) return CUDA_SUCCESS;
  ++thread.faults;
  thread.last_fault = call;
  return draw & 0x100'0000 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_UNKNOWN;
}

}  // namespace kiln::test::driver

namespace {

std::array<char, 16> contexts;  // their addresses are the handles: primary ones, then others

CUcontext context_handle(int index) {
  return reinterpret_cast<CUcontext>(&contexts[static_cast<std::size_t>(index)]);
}

struct Library {
  FakeCubin cubin;
  CUcontext context = nullptr;
};

bool forbidden_by_capture() {
  if (state.capturing == nullptr || thread.capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
    return false;
  state.capture_invalidated = true;
  return true;
}

// With FAKE_CUDA_RESULTS=right in the environment the checking kernel says that what it looked at
// is right. Without, it does nothing, like all kernels here.
void check_if_asked(const Library& library, const void* params) {
  const char* results = std::getenv("FAKE_CUDA_RESULTS");
  if (results == nullptr || std::string(results) != "right") return;
  if (library.cubin.entry.find("check_reference") == std::string::npos) return;
  double* const sums = static_cast<const kiln::device::ReferenceParams*>(params)->sums;
  for (int i = 0; i < 3; ++i) sums[i] += 1;
}

void describe_launch(const CUlaunchConfig& config, const Library& library, const void* params,
                     FakeLaunch* launch) {
  launch->grid_x = config.gridDimX;
  launch->grid_y = config.gridDimY;
  launch->grid_z = config.gridDimZ;
  launch->threads = config.blockDimX * config.blockDimY * config.blockDimZ;
  launch->smem_bytes = config.sharedMemBytes;
  launch->cluster_x = 0;
  launch->programmatic = false;
  launch->stream = config.hStream;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
      launch->cluster_x = attribute.value.clusterDim.x;
    if (attribute.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
      launch->programmatic = attribute.value.programmaticStreamSerializationAllowed != 0;
    }
  }
  const std::size_t name_bytes = std::min(sizeof(launch->kernel) - 1, library.cubin.entry.size());
  std::memcpy(launch->kernel, library.cubin.entry.data(), name_bytes);
  launch->kernel[name_bytes] = '\0';
  launch->param_bytes = static_cast<unsigned>(library.cubin.param_bytes);
  std::memcpy(launch->params.data(), params,
              std::min<std::size_t>(launch->param_bytes, launch->params.size()));
  launch->context = library.context;
}

// Without the parameters that there are not.
void copy_launch(const FakeLaunch& from, FakeLaunch* to) {
  std::memcpy(static_cast<void*>(to), &from, offsetof(FakeLaunch, params) + from.param_bytes);
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
std::size_t kiln_fake_cuda_depth() { return context_stack.size(); }
FakeThread* kiln_fake_cuda_thread() { return &thread; }
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
    case CUDA_ERROR_INVALID_IMAGE:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      return CUDA_SUCCESS;
    case CUDA_ERROR_OUT_OF_MEMORY:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      return CUDA_SUCCESS;
    case CUDA_ERROR_ILLEGAL_ADDRESS:
      *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
      return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_CONTEXT:
      *name = "CUDA_ERROR_INVALID_CONTEXT";
      return CUDA_SUCCESS;
    case CUDA_ERROR_NO_DEVICE:
      *name = "CUDA_ERROR_NO_DEVICE";
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuGetErrorString(CUresult, const char** text) {
  COUNT("cuGetErrorString");
  *text = "a simulated error";
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  COUNT_OR_FAIL("cuDeviceGetCount");
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
  COUNT_OR_FAIL("cuDeviceGetAttribute");
  const FakeDevice* const info = device_at(device);
  *value = kiln_sim::hopper_attribute(which, info->major, info->minor, info->num_sms);
  return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) {
  COUNT("cuDeviceTotalMem");
  *bytes = std::size_t{1} << 37;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  COUNT_OR_FAIL("cuDevicePrimaryCtxRetain");
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
  COUNT_OR_FAIL("cuCtxPushCurrent");
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
  std::swap(*mode, thread.capture_mode);
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  COUNT_OR_FAIL("cuStreamIsCapturing");
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
  COUNT_OR_FAIL("cuLibraryLoadData");
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
  COUNT_OR_FAIL("cuLibraryGetKernel");
  *kernel = reinterpret_cast<CUkernel>(library);
  return reinterpret_cast<Library*>(library)->cubin.entry == name ? CUDA_SUCCESS
                                                                  : CUDA_ERROR_NOT_FOUND;
}

CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  COUNT_OR_FAIL("cuKernelGetFunction");
  *function = reinterpret_cast<CUfunction>(kernel);
  return current() != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuKernelGetParamInfo(CUkernel kernel, std::size_t index, std::size_t* offset,
                              std::size_t* bytes) {
  COUNT_OR_FAIL("cuKernelGetParamInfo");
  if (index > 0) return CUDA_ERROR_INVALID_VALUE;
  *offset = 0;
  *bytes = static_cast<std::size_t>(reinterpret_cast<Library*>(kernel)->cubin.param_bytes);
  return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction) {
  COUNT_OR_FAIL("cuFuncLoad");
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction function) {
  COUNT_OR_FAIL("cuFuncGetAttribute");
  const FakeCubin& cubin = reinterpret_cast<Library*>(function)->cubin;
  switch (which) {
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = cubin.registers + state.extra_registers;
      break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = cubin.static_smem_bytes;
      break;
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = cubin.threads;
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  COUNT_OR_FAIL("cuFuncSetAttribute");
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank,
                                void* address, const cuuint64_t* extents, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                CUtensorMapFloatOOBfill fill) {
  COUNT_OR_FAIL("cuTensorMapEncodeTiled");
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
  COUNT_OR_FAIL("cuLaunchKernelEx");
  const auto* const library = reinterpret_cast<const Library*>(function);
  if (current() != library->context) return CUDA_ERROR_INVALID_CONTEXT;
  if (state.launch_result != CUDA_SUCCESS) return state.launch_result;
  check_if_asked(*library, params[0]);
  FakeLaunch& own = thread.last_launch;
  describe_launch(*config, *library, params[0], &own);
  ++thread.launches;
  const std::uint64_t index = state.launches.fetch_add(1, std::memory_order_relaxed);
  static std::atomic_flag recording;
  if (recording.test_and_set(std::memory_order_acquire)) return CUDA_SUCCESS;  // one will do
  copy_launch(own, &state.last_launch);
  copy_launch(own, &state.history[index % state.history.size()]);
  recording.clear(std::memory_order_release);
  return CUDA_SUCCESS;
}

}  // extern "C"
