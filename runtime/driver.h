// libcuda, opened at run time: the table of the calls Kiln makes, errors as exceptions, the device
// of an engine and the scope in which its context is current. Knows no kernel and no engine.
//
// Thread-safe: everything is immutable after construction.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "jit/error.h"

namespace kiln::runtime {

// Every call of libcuda that Kiln makes. cuda.h renames some to their current version by macro
// (cuMemFree is cuMemFree_v2); member and symbol follow that name, so type and symbol agree.
#define KILN_DRIVER_CALLS(X)                                                             \
  X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName) X(cuGetErrorString)                  \
  X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetAttribute)          \
  X(cuDeviceTotalMem) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease)           \
  X(cuCtxGetCurrent) X(cuCtxGetDevice) X(cuCtxPushCurrent) X(cuCtxPopCurrent)            \
  X(cuLibraryLoadData) X(cuLibraryUnload) X(cuLibraryGetKernel) X(cuKernelGetFunction)   \
  X(cuFuncGetAttribute) X(cuFuncSetAttribute) X(cuThreadExchangeStreamCaptureMode)       \
  X(cuStreamIsCapturing) X(cuTensorMapEncodeTiled) X(cuLaunchKernelEx)                   \
  X(cuMemAlloc) X(cuMemFree) X(cuMemcpyHtoD) X(cuMemcpyDtoH) X(cuMemcpyDtoHAsync)        \
  X(cuMemcpyDtoDAsync) X(cuMemsetD8Async) X(cuStreamCreate) X(cuStreamDestroy)           \
  X(cuStreamSynchronize) X(cuEventCreate) X(cuEventDestroy) X(cuEventRecord)             \
  X(cuEventRecordWithFlags) X(cuEventSynchronize) X(cuEventElapsedTime)                  \
  X(cuStreamBeginCapture) X(cuStreamEndCapture) X(cuGraphInstantiateWithFlags)           \
  X(cuGraphLaunch) X(cuGraphDestroy) X(cuGraphExecDestroy)

inline constexpr const char* kDriverLibrary = "libcuda.so.1";

class Driver {
 public:
  // Opens the library and calls cuInit. It stays open for the life of the process, because
  // unloading libcuda is not safe. Throws Error{kNoDriver} with what to do.
  static std::shared_ptr<const Driver> open(const std::string& library = kDriverLibrary);

  const std::string& path() const { return path_; }  // the resolved file
  int version() const { return version_; }           // 13000 is 13.0
  int device_count() const;

  // Throws Error{kDriverError}, or kOutOfMemory, naming the call and the driver's error.
  void check(CUresult result, const char* call) const {
    if (result != CUDA_SUCCESS) [[unlikely]] fail(result, call);
  }
  std::string error_text(CUresult result) const;  // "CUDA_ERROR_... (text)"

  // Any other symbol of the library, or null; for tests.
  void* symbol(const char* name) const noexcept;

#define KILN_DECLARE(name) decltype(&::name) name = nullptr;
  KILN_DRIVER_CALLS(KILN_DECLARE)
#undef KILN_DECLARE
  // Of CUDA 12.4: null where the driver is older, and not in every cuda.h that Kiln builds with.
  CUresult (*cuKernelGetParamInfo)(CUkernel, std::size_t, std::size_t*, std::size_t*) = nullptr;
  CUresult (*cuFuncLoad)(CUfunction) = nullptr;

 private:
  Driver() = default;
  void bind_calls();
  void initialise();
  [[noreturn]] void fail(CUresult result, const char* call) const;

  void* handle_ = nullptr;
  std::string path_;
  int version_ = 0;
};

// Makes a context current for a scope and restores the caller's. Costs one query when it already
// is current. Throws Error{kDriverError} when the context cannot be made current.
class ContextScope {
 public:
  ContextScope(const Driver& driver, CUcontext context);
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;
  ContextScope& operator=(const ContextScope&) = delete;
  bool pushed() const { return pushed_; }

 private:
  const Driver& driver_;
  bool pushed_ = false;
};

// Whether the driver says that work enqueued on `stream` now would be captured, or refused because
// of a capture. Without any current context there is no answer for a stream that depends on it:
// then false. Throws Error{kDriverError}.
bool is_capturing(const Driver& driver, CUstream stream);

// Lets this thread make calls while some stream is being captured that do not become part of the
// capture, such as loading a module: in the default mode the driver refuses them and invalidates
// the capture.
class RelaxedCapture {
 public:
  explicit RelaxedCapture(const Driver& driver);
  ~RelaxedCapture();
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  const Driver& driver_;
  CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;  // the caller's, once exchanged
};

struct DeviceInfo {
  int ordinal = 0;
  std::string name;
  std::string pci_bus_id;    // "00000000:1b:00.0"
  int major = 0, minor = 0;  // compute capability
  int num_sms = 0;
  int clock_khz = 0;
  int memory_clock_khz = 0;
  int memory_bus_bits = 0;
  std::int64_t l2_bytes = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t smem_optin_bytes = 0;  // shared memory that one CTA may have

  bool is_hopper() const { return major == 9 && minor == 0; }
};
DeviceInfo query_device(const Driver& driver, int ordinal);  // throws Error{kDriverError}

// One GPU and the context of it that an engine works in.
class Device {
 public:
  // Retains the primary context of the device until destruction. Throws Error{kNoDevice} for an
  // ordinal that does not exist, kUnsupported for a GPU that is not sm_90.
  static std::unique_ptr<const Device> open(std::shared_ptr<const Driver> driver, int ordinal);
  // The context that is current on the calling thread, which its owner must keep alive.
  static std::unique_ptr<const Device> current(std::shared_ptr<const Driver> driver);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Driver& driver() const { return *driver_; }
  CUcontext context() const { return context_; }
  const DeviceInfo& info() const { return info_; }

 private:
  Device(std::shared_ptr<const Driver> driver, DeviceInfo info, CUcontext context, bool retained);

  std::shared_ptr<const Driver> driver_;
  DeviceInfo info_;
  CUcontext context_ = nullptr;
  bool retained_ = false;
};

}  // namespace kiln::runtime
