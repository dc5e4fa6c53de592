// libcuda without a GPU: device memory is host memory, kernels are host code that tools/sim
// compiled and run on the model before the launch returns. Each function takes the name that cuda.h
// gives the call today, as the real library exports it.
#include "runtime/driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "tools/sim/access.h"
#include "tools/sim/control.h"
#include "tools/sim/hopper_attribute.h"
#include "tools/sim/machine.h"

namespace {

using kiln::sim::Control;
using kiln::sim::GlobalMemory;
using kiln::sim::Launch;

// A fault of a kernel is none of CUDA's errors.
constexpr auto kKernelFault = CUDA_ERROR_UNKNOWN;

struct Library {
  void* handle = nullptr;
  int file = -1;
  std::string image;
  void (*entry)(const void*) = nullptr;
  const kiln_sim::Region* regions = nullptr;
  const int* info = nullptr;  // threads, registers, bytes of parameters
  const char* name = nullptr;
};

struct State {
  std::mutex mutex;  // one launch, and one change of memory, at a time
  Control control;
  std::string fault;
  GlobalMemory memory;
  kiln::sim::StackPool stacks;
};
State& state() {
  static State& state =
      *new State;  // never destroyed: kernels and memory may outlive static objects
  return state;
}

char primary_context;

// Trivial on purpose: it is used while a program's static objects go.
struct ContextStack {
  CUcontext contexts[16];
  std::size_t depth;
  CUcontext top() const { return depth == 0 ? nullptr : contexts[depth - 1]; }
};
thread_local ContextStack context_stack;

using Clock = std::chrono::steady_clock;
struct Event {
  Clock::time_point time;
};

std::size_t elf_bytes(const void* image) {
  const auto& header = *static_cast<const Elf64_Ehdr*>(image);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  return header.e_shoff + std::size_t{header.e_shnum} * header.e_shentsize;
}

bool write_all(int file, const char* bytes, std::size_t count) {
  while (count > 0) {
    const ssize_t written = write(file, bytes, count);
    if (written <= 0) return false;
    bytes += written;
    count -= static_cast<std::size_t>(written);
  }
  return true;
}

template <class T>
bool bind(void* handle, const char* name, T& to) {
  to = reinterpret_cast<T>(dlsym(handle, name));
  return to != nullptr;
}

// The kernel calls functions of this library, which may have been opened for its own symbols only.
void show_own_symbols() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&show_own_symbols), &info) != 0)
    dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
}

bool open_image(const void* code, Library& library) {
  const std::size_t bytes = elf_bytes(code);
  library.file = memfd_create("kiln-sim-kernel", MFD_CLOEXEC);
  if (bytes == 0 || library.file < 0 ||
      !write_all(library.file, static_cast<const char*>(code), bytes))
    return false;
  library.image = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(library.file);
  show_own_symbols();
  library.handle = dlopen(library.image.c_str(), RTLD_NOW | RTLD_LOCAL);
  return library.handle != nullptr && bind(library.handle, "kiln_sim_entry", library.entry) &&
         bind(library.handle, "kiln_sim_regions", library.regions) &&
         bind(library.handle, "kiln_sim_info", library.info) &&
         bind(library.handle, "kiln_sim_name", library.name);
}

void close_image(Library* library) {
  if (library->handle != nullptr) dlclose(library->handle);
  if (library->file >= 0) close(library->file);
  delete library;
}

Launch launch_of(const CUlaunchConfig& config, const Library& library, const void* params) {
  Launch launch;
  launch.name = library.name;
  launch.entry = library.entry;
  launch.params = params;
  launch.image = library.image;
  launch.regions = library.regions;
  launch.grid = {config.gridDimX, config.gridDimY, config.gridDimZ};
  launch.block = {config.blockDimX, config.blockDimY, config.blockDimZ};
  launch.smem_bytes = config.sharedMemBytes;
  launch.registers = static_cast<std::uint32_t>(library.info[1]);
  for (unsigned i = 0; i < config.numAttrs; ++i)
    if (config.attrs[i].id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
      launch.cluster = config.attrs[i].value.clusterDim.x;
  return launch;
}

bool is_launchable(const Launch& launch, const Library& library) {
  return launch.grid.x > 0 && launch.grid.y > 0 && launch.grid.z == 1 && launch.block.x > 0 &&
         launch.block.x % 32 == 0 && launch.block.y == 1 && launch.block.z == 1 &&
         launch.block.x <= static_cast<unsigned>(library.info[0]) && launch.smem_bytes <= 232448 &&
         launch.cluster >= 1 && launch.cluster <= 8 && launch.grid.x % launch.cluster == 0;
}

void note(const kiln::sim::Statistics& s) {
  Control& control = state().control;
  control.switches = s.switches;
  control.loads = s.loads;
  control.mmas = s.mmas;
  control.stores = s.stores;
  control.copies = s.copies;
}

std::uint32_t element_bytes(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
      return 1;
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
      return 2;
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
      return 4;
    default:
      return 0;  // not modelled
  }
}

std::uint32_t span_of(CUtensorMapSwizzle swizzle) {
  switch (swizzle) {
    case CU_TENSOR_MAP_SWIZZLE_32B:
      return 32;
    case CU_TENSOR_MAP_SWIZZLE_64B:
      return 64;
    case CU_TENSOR_MAP_SWIZZLE_128B:
      return 128;
    default:
      return 0;
  }
}

// The rules of cuda.h for what the model has: no interleave, element strides of 1, zeros outside.
bool obeys_rules(const kiln::sim::TensorMap& map) {
  const std::uint32_t inner = map.box[0] * map.element_bytes;
  if (map.element_bytes == 0 || map.rank < 2 || map.rank > 3 || map.address % 16 != 0) return false;
  if (inner % 16 != 0 || (map.swizzle_bytes != 0 && inner > map.swizzle_bytes)) return false;
  for (std::uint32_t i = 0; i < map.rank; ++i) {
    if (map.extents[i] == 0 || map.extents[i] > std::uint64_t{1} << 32) return false;
    if (map.box[i] == 0 || map.box[i] > 256) return false;
    if (i > 0 &&
        (map.stride_bytes[i - 1] % 16 != 0 || map.stride_bytes[i - 1] >= std::uint64_t{1} << 40))
      return false;
  }
  return true;
}

}  // namespace

extern "C" {

KILN_SIM_API Control* kiln_sim_control() { return &state().control; }

KILN_SIM_API CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
// Not called by Kiln but by NVRTC, when it finds this library in place of the driver.
KILN_SIM_API CUresult cuGetExportTable(const void** table, const CUuuid*) {
  *table = nullptr;
  return CUDA_ERROR_NOT_SUPPORTED;
}
KILN_SIM_API CUresult cuDriverGetVersion(int* version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuGetErrorName(CUresult error, const char** name) {
  switch (error) {
    case kKernelFault:
      *name = "the kernel broke a rule";
      return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_VALUE:
      *name = "CUDA_ERROR_INVALID_VALUE";
      return CUDA_SUCCESS;
    case CUDA_ERROR_INVALID_IMAGE:
      *name = "CUDA_ERROR_INVALID_IMAGE";
      return CUDA_SUCCESS;
    case CUDA_ERROR_OUT_OF_MEMORY:
      *name = "CUDA_ERROR_OUT_OF_MEMORY";
      return CUDA_SUCCESS;
    case CUDA_ERROR_NOT_SUPPORTED:
      *name = "CUDA_ERROR_NOT_SUPPORTED";
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}
KILN_SIM_API CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == kKernelFault ? state().fault.c_str() : "from the simulator";
  return CUDA_SUCCESS;
}

// ---- the device ----

KILN_SIM_API CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
KILN_SIM_API CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  std::snprintf(name, static_cast<std::size_t>(length), "simulated Hopper");
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  *value = kiln_sim::hopper_attribute(which, 9, 0, state().control.num_sms);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuDeviceTotalMem(std::size_t* bytes, CUdevice) {
  *bytes = std::size_t{4} << 30;
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  *context = reinterpret_cast<CUcontext>(&primary_context);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
KILN_SIM_API CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = context_stack.top();
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return context_stack.depth == 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuCtxPushCurrent(CUcontext context) {
  if (context_stack.depth == std::size(context_stack.contexts)) return CUDA_ERROR_OUT_OF_MEMORY;
  context_stack.contexts[context_stack.depth++] = context;
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuCtxPopCurrent(CUcontext* context) {
  if (context_stack.depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  *context = context_stack.contexts[--context_stack.depth];
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode*) {
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}

// ---- kernels ----

KILN_SIM_API CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**,
                                        unsigned, CUlibraryOption*, void**, unsigned) {
  auto* const opened = new Library;
  if (!open_image(code, *opened)) {
    close_image(opened);
    return CUDA_ERROR_INVALID_IMAGE;
  }
  *library = reinterpret_cast<CUlibrary>(opened);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuLibraryUnload(CUlibrary library) {
  close_image(reinterpret_cast<Library*>(library));
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
  *kernel = reinterpret_cast<CUkernel>(library);
  return std::strcmp(reinterpret_cast<Library*>(library)->name, name) == 0 ? CUDA_SUCCESS
                                                                           : CUDA_ERROR_NOT_FOUND;
}
KILN_SIM_API CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
  *function = reinterpret_cast<CUfunction>(kernel);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuKernelGetParamInfo(CUkernel kernel, std::size_t index, std::size_t* offset,
                                           std::size_t* bytes) {
  if (index > 0) return CUDA_ERROR_INVALID_VALUE;
  *offset = 0;
  *bytes = static_cast<std::size_t>(reinterpret_cast<Library*>(kernel)->info[2]);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which,
                                         CUfunction function) {
  const Library& library = *reinterpret_cast<Library*>(function);
  switch (which) {
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = library.info[1];
      break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = 0;
      break;
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = library.info[0];
      break;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  return CUDA_SUCCESS;
}

KILN_SIM_API CUresult cuTensorMapEncodeTiled(
    CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
    const cuuint64_t* extents, const cuuint64_t* strides, const cuuint32_t* box,
    const cuuint32_t* element_strides, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
    CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  kiln::sim::TensorMap record{};
  record.magic = kiln::sim::kTensorMapMagic;
  record.address = reinterpret_cast<std::uintptr_t>(address);
  record.rank = rank;
  if (rank < 2 || rank > 3 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE ||
      !std::all_of(element_strides, element_strides + rank, [](auto s) { return s == 1; }))
    return CUDA_ERROR_NOT_SUPPORTED;
  std::copy_n(extents, rank, record.extents);
  std::copy_n(strides, rank - 1, record.stride_bytes);
  std::copy_n(box, rank, record.box);
  record.element_bytes = element_bytes(type);
  record.swizzle_bytes = span_of(swizzle);
  record.is_f32 = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  if (!obeys_rules(record)) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(static_cast<void*>(map), &record, sizeof(record));
  return CUDA_SUCCESS;
}

KILN_SIM_API CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function,
                                       void** params, void**) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const Library& library = *reinterpret_cast<const Library*>(function);
  const Launch launch = launch_of(*config, library, params[0]);
  if (!is_launchable(launch, library)) return CUDA_ERROR_INVALID_VALUE;
  s.fault.clear();
  kiln::sim::Machine machine(s.memory, launch, s.control.seed, s.stacks);
  const kiln::sim::AccessGuard guard;
  try {
    machine.run();
  } catch (const kiln::sim::Fault& fault) {
    s.fault = fault.what();
  }
  s.control.fault = s.fault.c_str();
  note(machine.statistics());
  return s.fault.empty() ? CUDA_SUCCESS : kKernelFault;
}

// ---- memory ----

KILN_SIM_API CUresult cuMemAlloc(CUdeviceptr* address, std::size_t bytes) {
  const std::lock_guard lock(state().mutex);
  *address = reinterpret_cast<CUdeviceptr>(state().memory.allocate(bytes));
  return *address != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
KILN_SIM_API CUresult cuMemFree(CUdeviceptr address) {
  const std::lock_guard lock(state().mutex);
  return state().memory.release(reinterpret_cast<void*>(address)) ? CUDA_SUCCESS
                                                                  : CUDA_ERROR_INVALID_VALUE;
}
KILN_SIM_API CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, std::size_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, std::size_t bytes) {
  std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, std::size_t bytes, CUstream) {
  return cuMemcpyDtoH(to, from, bytes);
}
KILN_SIM_API CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes,
                                        CUstream) {
  return cuMemcpyHtoD(to, reinterpret_cast<const void*>(from), bytes);
}
KILN_SIM_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, std::size_t bytes,
                                      CUstream) {
  // What only flushes L2 is left as it is: nobody reads it, and it would take all the memory.
  constexpr std::size_t kFlushBytes = std::size_t{256} << 20;
  if (bytes < kFlushBytes) std::memset(reinterpret_cast<void*>(to), value, bytes);
  return CUDA_SUCCESS;
}

// ---- streams and events: everything is done when a call returns; captures are not modelled ----

KILN_SIM_API CUresult cuStreamCreate(CUstream* stream, unsigned) {
  *stream = reinterpret_cast<CUstream>(new char);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuStreamDestroy(CUstream stream) {
  delete reinterpret_cast<char*>(stream);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
KILN_SIM_API CUresult cuEventCreate(CUevent* event, unsigned) {
  *event = reinterpret_cast<CUevent>(new Event{Clock::now()});
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuEventDestroy(CUevent event) {
  delete reinterpret_cast<Event*>(event);
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuEventRecord(CUevent event, CUstream) {
  reinterpret_cast<Event*>(event)->time = Clock::now();
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned) {
  return cuEventRecord(event, stream);
}
KILN_SIM_API CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
KILN_SIM_API CUresult cuEventElapsedTime(float* milliseconds, CUevent begin, CUevent end) {
  *milliseconds = std::chrono::duration<float, std::milli>(reinterpret_cast<Event*>(end)->time -
                                                           reinterpret_cast<Event*>(begin)->time)
                      .count();
  return CUDA_SUCCESS;
}
KILN_SIM_API CUresult cuStreamBeginCapture(CUstream, CUstreamCaptureMode) {
  return CUDA_ERROR_NOT_SUPPORTED;
}
KILN_SIM_API CUresult cuStreamEndCapture(CUstream, CUgraph*) { return CUDA_ERROR_NOT_SUPPORTED; }
KILN_SIM_API CUresult cuGraphInstantiateWithFlags(CUgraphExec*, CUgraph, unsigned long long) {
  return CUDA_ERROR_NOT_SUPPORTED;
}
KILN_SIM_API CUresult cuGraphLaunch(CUgraphExec, CUstream) { return CUDA_ERROR_NOT_SUPPORTED; }
KILN_SIM_API CUresult cuGraphDestroy(CUgraph) { return CUDA_SUCCESS; }
KILN_SIM_API CUresult cuGraphExecDestroy(CUgraphExec) { return CUDA_SUCCESS; }

}  // extern "C"
