// Optional libraries of NVIDIA's, opened at run time: where to look, and what came of it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kiln::tools {

// Paths in the order in which NVRTC is looked for too: CUDA_HOME and CUDA_PATH, /usr/local/cuda*,
// the loader's path, Python wheels (site-packages/nvidia/PACKAGE/lib of the virtual environments
// that the engine knows).
std::vector<std::string> toolkit_candidates(std::span<const std::string_view> sonames,
                                            std::span<const std::string_view> wheel_packages);

// Stays open for the life of the process: GPU libraries do not survive being unloaded.
class DynamicLibrary {
 public:
  // The first candidate that can be opened, else a closed library whose message() says what was
  // tried. Never throws.
  explicit DynamicLibrary(std::span<const std::string> candidates);

  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& path() const { return path_; }  // as it was opened
  const std::string& message() const { return message_; }

  // Binds `function`; false when the library has no such symbol.
  template <class Function>
  bool bind(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(symbol(name));
    return function != nullptr;
  }

 private:
  void* symbol(const char* name) const;

  void* handle_ = nullptr;
  std::string path_;
  std::string message_;
};

}  // namespace kiln::tools
