// Compiler: program text -> cubin. The interface, and NVRTC behind it (opened with dlopen).
//
// Thread safety: compile() may be called from several threads at once.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "jit/source.h"

namespace kiln::jit {

// What ptxas reported of the kernel.
struct Resources {
  int registers = 0;  // per thread at launch, before setmaxnreg redistributes them
  int spill_store_bytes = 0;
  int spill_load_bytes = 0;
  int stack_bytes = 0;
  int static_smem_bytes = 0;
  auto operator<=>(const Resources&) const = default;
};

struct CompiledKernel {
  std::vector<std::byte> cubin;
  std::string log;  // warnings and the resource report, possibly empty, at most 64 KiB
  Resources resources;
  double compile_ms = 0;
};

class Compiler {
 public:
  virtual ~Compiler() = default;

  // Throws Error{kCompileFailed} whose message holds the program's name, the options and the log.
  // A success is never empty and always an ELF image that names the entry.
  virtual CompiledKernel compile(const Source& source) = 0;

  // Identity of the compiler that can change its output: version and build ids, never a path.
  // Goes into every cache key. E.g. "nvrtc 13.0 libnvrtc=65be0d... builtins=08d17e...".
  virtual std::string fingerprint() const = 0;

  // The exact options of every compile, in order; part of every cache key. The random seed that
  // NVRTC uses for internal names is fixed, so the same key always gives the same bytes.
  virtual std::vector<std::string> options(Arch arch) const = 0;
};

// Where a library was looked for and what came of it, for `kiln doctor` and error messages.
struct NvrtcLocation {
  std::string path;  // resolved file, empty when not found
  int major = 0, minor = 0;
  std::vector<std::string> tried;  // "path: reason", in order
};

// Search order: explicit_path (a file or a directory; if given, nothing else is tried), CUDA_HOME
// and CUDA_PATH, /usr/local/cuda*, the loader's path, Python wheels below venv_dirs
// (lib/python*/site-packages/nvidia/{cuda_nvrtc,cu13}/lib). Never throws.
struct NvrtcSearch {
  std::string explicit_path;
  std::vector<std::string> venv_dirs;
};
NvrtcLocation locate_nvrtc(const NvrtcSearch& search);

// Opens NVRTC; throws Error{kNoCompiler} listing every place tried, or kUnsupported for a version
// outside 12.4..13.x.
std::unique_ptr<Compiler> open_nvrtc(const NvrtcSearch& search);

}  // namespace kiln::jit
