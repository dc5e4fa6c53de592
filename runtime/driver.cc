#include "runtime/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <link.h>

#include <array>
#include <utility>

namespace kiln::runtime {
namespace {

// cuLibraryLoadData, cuLaunchKernelEx and cuTensorMapEncodeTiled are all there from 12.0 on.
constexpr int kOldestDriver = 12000;

std::string last_dl_error() {
  const char* text = dlerror();
  return text != nullptr ? text : "unknown error";
}

std::string resolved_path(void* handle, const std::string& fallback) {
  const link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr || map->l_name == nullptr) {
    return fallback;
  }
  return map->l_name;
}

template <class Function>
void bind(void* handle, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
}

int attribute(const Driver& driver, CUdevice_attribute which, CUdevice device) {
  int value = 0;
  driver.check(driver.cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

void require_hopper(const DeviceInfo& info) {
  if (info.is_hopper()) return;
  throw Error(
      Status::kUnsupported,
      fmt::format("device {} is {} (sm_{}{}): Kiln's kernels run on sm_90 alone (H100, H200, "
                  "GH200); choose such a device, or KILN_DEVICE_NONE to only compile",
                  info.ordinal, info.name, info.major, info.minor));
}

}  // namespace

std::shared_ptr<const Driver> Driver::open(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Error(
        Status::kNoDriver,
        fmt::format("the CUDA driver library {} was not found ({}): install the NVIDIA driver, "
                    "or use KILN_DEVICE_NONE to compile without one",
                    library, last_dl_error()));
  }
  std::shared_ptr<Driver> driver(new Driver);
  driver->handle_ = handle;
  driver->path_ = resolved_path(handle, library);
  driver->bind_calls();
  driver->initialise();
  return driver;
}

void Driver::bind_calls() {
#define KILN_STRING_OF(name) #name
#define KILN_CURRENT_NAME(name) KILN_STRING_OF(name)  // after cuda.h renamed it
#define KILN_BIND(name) bind(handle_, name, KILN_CURRENT_NAME(name));
  KILN_DRIVER_CALLS(KILN_BIND)
  KILN_BIND(cuKernelGetParamInfo)
  KILN_BIND(cuFuncLoad)
#undef KILN_BIND
#undef KILN_CURRENT_NAME
#undef KILN_STRING_OF
  // CUDA 12.8 renamed this one to _v2 without changing its signature; older drivers lack that name.
  if (cuEventElapsedTime == nullptr) bind(handle_, cuEventElapsedTime, "cuEventElapsedTime");

  std::string missing;
#define KILN_REQUIRE(name) \
  if (name == nullptr) missing += missing.empty() ? #name : ", " #name;
  KILN_DRIVER_CALLS(KILN_REQUIRE)
#undef KILN_REQUIRE
  if (missing.empty()) return;
  throw Error(
      Status::kNoDriver,
      fmt::format("the CUDA driver {} lacks {}: Kiln needs a driver for CUDA 12.0 or later; "
                  "update it",
                  path_, missing));
}

void Driver::initialise() {
  if (const CUresult result = cuInit(0); result != CUDA_SUCCESS) {
    const Status status = result == CUDA_ERROR_NO_DEVICE ? Status::kNoDevice : Status::kNoDriver;
    throw Error(status,
                fmt::format("cuInit of {} failed: {}: check that a GPU is visible here and that "
                            "nvidia-smi works",
                            path_, error_text(result)));
  }
  check(cuDriverGetVersion(&version_), "cuDriverGetVersion");
  if (version_ >= kOldestDriver) return;
  throw Error(
      Status::kNoDriver,
      fmt::format("the CUDA driver {} is for CUDA {}.{}: Kiln needs 12.0 or later; update it",
                  path_, version_ / 1000, version_ % 1000 / 10));
}

int Driver::device_count() const {
  int count = 0;
  check(cuDeviceGetCount(&count), "cuDeviceGetCount");
  return count;
}

std::string Driver::error_text(CUresult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) {
    return fmt::format("CUDA error {}", static_cast<int>(result));
  }
  if (cuGetErrorString(result, &text) != CUDA_SUCCESS || text == nullptr) text = "no text";
  return fmt::format("{} ({})", name, text);
}

void* Driver::symbol(const char* name) const noexcept { return dlsym(handle_, name); }

void Driver::fail(CUresult result, const char* call) const {
  const std::string text = fmt::format("{} failed: {}", call, error_text(result));
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY: throw Error(Status::kOutOfMemory, text);
    // These come from earlier asynchronous work, stay until the process ends, and say nothing about
    // the call that reports them.
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_ASSERT:
      throw Error(
          Status::kDriverError,
          text +
              ": a kernel that ran earlier in this context, of Kiln or of the host, failed, and "
              "the context cannot be used any more; find it with compute-sanitizer");
    default: throw Error(Status::kDriverError, text);
  }
}

ContextScope::ContextScope(const Driver& driver, CUcontext context) : driver_(driver) {
  CUcontext current = nullptr;
  driver.check(driver.cuCtxGetCurrent(&current), "cuCtxGetCurrent");
  if (current == context) return;
  driver.check(driver.cuCtxPushCurrent(context), "cuCtxPushCurrent");
  pushed_ = true;
}

ContextScope::~ContextScope() {
  CUcontext popped = nullptr;
  if (pushed_) driver_.cuCtxPopCurrent(&popped);  // fails only when the process is going down
}

bool is_capturing(const Driver& driver, CUstream stream) {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  switch (const CUresult result = driver.cuStreamIsCapturing(stream, &status); result) {
    case CUDA_SUCCESS: return status != CU_STREAM_CAPTURE_STATUS_NONE;
    case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
    case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
    case CUDA_ERROR_STREAM_CAPTURE_IMPLICIT:
    case CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD: return true;
    case CUDA_ERROR_INVALID_CONTEXT: return false;
    default: driver.check(result, "cuStreamIsCapturing"); return false;
  }
}

RelaxedCapture::RelaxedCapture(const Driver& driver) : driver_(driver) {
  driver.check(driver.cuThreadExchangeStreamCaptureMode(&mode_),
               "cuThreadExchangeStreamCaptureMode");
}

RelaxedCapture::~RelaxedCapture() { driver_.cuThreadExchangeStreamCaptureMode(&mode_); }

DeviceInfo query_device(const Driver& driver, int ordinal) {
  CUdevice device = 0;
  driver.check(driver.cuDeviceGet(&device, ordinal), "cuDeviceGet");
  std::array<char, 256> name{};
  driver.check(driver.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, device),
               "cuDeviceGetName");
  std::size_t memory_bytes = 0;
  driver.check(driver.cuDeviceTotalMem(&memory_bytes, device), "cuDeviceTotalMem");
  DeviceInfo info;
  info.ordinal = ordinal;
  info.name = name.data();
  info.pci_bus_id = fmt::format("{:08x}:{:02x}:{:02x}.0",
                                attribute(driver, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, device),
                                attribute(driver, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, device),
                                attribute(driver, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, device));
  info.major = attribute(driver, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  info.minor = attribute(driver, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  info.num_sms = attribute(driver, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
  info.clock_khz = attribute(driver, CU_DEVICE_ATTRIBUTE_CLOCK_RATE, device);
  info.memory_clock_khz = attribute(driver, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, device);
  info.memory_bus_bits = attribute(driver, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, device);
  info.l2_bytes = attribute(driver, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, device);
  info.memory_bytes = static_cast<std::int64_t>(memory_bytes);
  info.smem_optin_bytes =
      attribute(driver, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device);
  return info;
}

Device::Device(std::shared_ptr<const Driver> driver, DeviceInfo info, CUcontext context,
               bool retained)
    : driver_(std::move(driver)), info_(std::move(info)), context_(context), retained_(retained) {}

std::unique_ptr<const Device> Device::open(std::shared_ptr<const Driver> driver, int ordinal) {
  const int count = driver->device_count();
  if (ordinal < 0 || ordinal >= count) {
    throw Error(
        Status::kNoDevice,
        fmt::format("device must be an ordinal below the {} CUDA device(s) that are visible here, "
                    "got {}: check CUDA_VISIBLE_DEVICES",
                    count, ordinal));
  }
  DeviceInfo info = query_device(*driver, ordinal);
  require_hopper(info);
  CUcontext context = nullptr;
  driver->check(driver->cuDevicePrimaryCtxRetain(&context, ordinal), "cuDevicePrimaryCtxRetain");
  return std::unique_ptr<const Device>(
      new Device(std::move(driver), std::move(info), context, true));
}

std::unique_ptr<const Device> Device::current(std::shared_ptr<const Driver> driver) {
  CUcontext context = nullptr;
  driver->check(driver->cuCtxGetCurrent(&context), "cuCtxGetCurrent");
  if (context == nullptr) {
    throw Error(
        Status::kNoDevice,
        "device is KILN_DEVICE_CURRENT, but no CUDA context is current on this thread: make one "
        "current (cudaSetDevice does), or give a device ordinal");
  }
  CUdevice device = 0;
  driver->check(driver->cuCtxGetDevice(&device), "cuCtxGetDevice");
  DeviceInfo info = query_device(*driver, device);
  require_hopper(info);
  return std::unique_ptr<const Device>(
      new Device(std::move(driver), std::move(info), context, false));
}

Device::~Device() {
  // An error here means that the driver is already gone, and the context with it.
  if (retained_) driver_->cuDevicePrimaryCtxRelease(info_.ordinal);
}

}  // namespace kiln::runtime
