// NVRTC, opened at run time. Types and constants that nvrtc.h would give are few and stable, so
// they are declared here: building Kiln needs no NVRTC headers.
#include <dirent.h>
#include <dlfcn.h>
#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>

#include "jit/compiler.h"
#include "jit/error.h"

namespace kiln::jit {
namespace {

namespace fs = std::filesystem;

using NvrtcResult = int;
using NvrtcProgram = void*;

struct NvrtcFunctions {
  NvrtcResult (*version)(int*, int*) = nullptr;
  NvrtcResult (*create)(NvrtcProgram*, const char*, const char*, int, const char* const*,
                        const char* const*) = nullptr;
  NvrtcResult (*destroy)(NvrtcProgram*) = nullptr;
  NvrtcResult (*compile)(NvrtcProgram, int, const char* const*) = nullptr;
  NvrtcResult (*cubin_size)(NvrtcProgram, std::size_t*) = nullptr;
  NvrtcResult (*cubin)(NvrtcProgram, char*) = nullptr;
  NvrtcResult (*log_size)(NvrtcProgram, std::size_t*) = nullptr;
  NvrtcResult (*log)(NvrtcProgram, char*) = nullptr;
  const char* (*error_string)(NvrtcResult) = nullptr;
};

template <typename F>
bool resolve(void* library, const char* symbol, F& function) {
  function = reinterpret_cast<F>(dlsym(library, symbol));
  return function != nullptr;
}

// Null on success, else the name of the missing symbol.
const char* resolve_all(void* library, NvrtcFunctions& f) {
  if (!resolve(library, "nvrtcVersion", f.version)) return "nvrtcVersion";
  if (!resolve(library, "nvrtcCreateProgram", f.create)) return "nvrtcCreateProgram";
  if (!resolve(library, "nvrtcDestroyProgram", f.destroy)) return "nvrtcDestroyProgram";
  if (!resolve(library, "nvrtcCompileProgram", f.compile)) return "nvrtcCompileProgram";
  if (!resolve(library, "nvrtcGetCUBINSize", f.cubin_size)) return "nvrtcGetCUBINSize";
  if (!resolve(library, "nvrtcGetCUBIN", f.cubin)) return "nvrtcGetCUBIN";
  if (!resolve(library, "nvrtcGetProgramLogSize", f.log_size)) return "nvrtcGetProgramLogSize";
  if (!resolve(library, "nvrtcGetProgramLog", f.log)) return "nvrtcGetProgramLog";
  if (!resolve(library, "nvrtcGetErrorString", f.error_string)) return "nvrtcGetErrorString";
  return nullptr;
}

bool supported(int major, int minor) { return (major == 12 && minor >= 4) || major == 13; }

// ---- search ----

// Entries of a directory whose name starts with `prefix`, newest version first.
std::vector<std::string> entries(const std::string& directory, std::string_view prefix) {
  std::vector<std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  std::sort(found.begin(), found.end(), std::greater<>());
  return found;
}

constexpr const char* kSonames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};

void add_directory(std::vector<std::string>& candidates, const std::string& directory) {
  for (const char* soname : kSonames) candidates.push_back(directory + "/" + soname);
}

void add_venv(std::vector<std::string>& candidates, const std::string& venv) {
  for (const std::string& python : entries(venv + "/lib", "python3"))
    for (const char* package : {"cu13", "cuda_nvrtc"})
      add_directory(candidates, fmt::format("{}/site-packages/nvidia/{}/lib", python, package));
}

std::vector<std::string> candidates_for(const NvrtcSearch& search) {
  std::vector<std::string> candidates;
  if (!search.explicit_path.empty()) {
    std::error_code ignored;
    if (fs::is_directory(search.explicit_path, ignored)) {
      add_directory(candidates, search.explicit_path);
    } else {
      candidates.push_back(search.explicit_path);
    }
    return candidates;
  }
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char* home = std::getenv(variable); home != nullptr && *home != '\0')
      for (const char* lib : {"/lib64", "/lib"}) add_directory(candidates, std::string(home) + lib);
  add_directory(candidates, "/usr/local/cuda/lib64");
  for (const std::string& toolkit : entries("/usr/local", "cuda-"))
    add_directory(candidates, toolkit + "/lib64");
  for (const char* soname : kSonames) candidates.emplace_back(soname);
  for (const std::string& venv : search.venv_dirs) add_venv(candidates, venv);
  return candidates;
}

struct Opened {
  void* library = nullptr;
  NvrtcFunctions functions;
  NvrtcLocation location;
};

std::string resolved_path(void* symbol) {
  Dl_info info{};
  if (dladdr(symbol, &info) == 0 || info.dli_fname == nullptr) return {};
  std::error_code error;
  const fs::path path = fs::canonical(info.dli_fname, error);
  return error ? info.dli_fname : path.string();
}

// Opens one candidate; on failure the reason is added to `tried` and the library closed.
bool try_open(const std::string& candidate, Opened& opened) {
  auto& tried = opened.location.tried;
  const bool is_path = candidate.find('/') != std::string::npos;
  std::error_code ignored;
  if (is_path && !fs::exists(candidate, ignored)) {
    tried.push_back(candidate + ": does not exist");
    return false;
  }
  void* library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = dlerror();
    tried.push_back(
        fmt::format("{}: {}", candidate, reason != nullptr ? reason : "cannot be opened"));
    return false;
  }
  std::string problem;
  int major = 0, minor = 0;
  if (const char* missing = resolve_all(library, opened.functions)) {
    problem = fmt::format("has no {}", missing);
  } else if (opened.functions.version(&major, &minor) != 0) {
    problem = "nvrtcVersion failed";
  } else if (!supported(major, minor)) {
    problem = fmt::format("is NVRTC {}.{}; 12.4 to 13.x are supported", major, minor);
  }
  if (!problem.empty()) {
    tried.push_back(fmt::format("{}: {}", candidate, problem));
    dlclose(library);
    return false;
  }
  opened.library = library;
  opened.location.path = resolved_path(reinterpret_cast<void*>(opened.functions.compile));
  opened.location.major = major;
  opened.location.minor = minor;
  tried.push_back(candidate + ": used");
  return true;
}

Opened open_first(const NvrtcSearch& search) {
  Opened opened;
  for (const std::string& candidate : candidates_for(search))
    if (try_open(candidate, opened)) break;
  return opened;
}

// ---- identity ----

// The GNU build id in a range of ELF notes, as hex; empty if there is none.
std::string build_id_in(const char* notes, std::size_t size) {
  for (std::size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size;) {
    ElfW(Nhdr) header;
    std::memcpy(&header, notes + at, sizeof header);
    const std::size_t name = at + sizeof header, value = name + ((header.n_namesz + 3) & ~3u);
    const std::size_t next = value + ((header.n_descsz + 3) & ~3u);
    if (next > size) break;
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
        std::memcmp(notes + name, "GNU", 4) == 0) {
      std::string hex;
      for (std::size_t i = 0; i < header.n_descsz; ++i)
        hex += fmt::format("{:02x}", static_cast<unsigned char>(notes[value + i]));
      return hex;
    }
    at = next;
  }
  return {};
}

// A hash of the whole file, for libraries without a build id (NVRTC before 12.9): about 40 ms,
// once.
std::string content_identity(std::ifstream& file) {
  file.clear();
  file.seekg(0);
  std::vector<char> buffer(1 << 20);
  std::uint64_t hash = 0xcbf29ce484222325u, total = 0;
  while (file) {
    std::fill(buffer.begin(), buffer.end(), '\0');
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    total += static_cast<std::uint64_t>(file.gcount());
    for (std::size_t at = 0; at < static_cast<std::size_t>(file.gcount());
         at += sizeof(std::uint64_t)) {
      std::uint64_t word;
      std::memcpy(&word, buffer.data() + at, sizeof word);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 29;
    }
  }
  return fmt::format("{:016x}-{}", hash, total);
}

// What tells this build of a library from another of the same version: the GNU build id in its ELF
// notes, else a hash of its content.
std::string file_identity(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header{};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header)) return "unreadable";
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    file.seekg(
        static_cast<std::streamoff>(header.e_phoff + static_cast<std::size_t>(i) * sizeof segment));
    if (!file.read(reinterpret_cast<char*>(&segment), sizeof segment)) break;
    constexpr std::size_t kMaxNotes = 1 << 16;
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNotes) continue;
    std::string notes(segment.p_filesz, '\0');
    file.seekg(static_cast<std::streamoff>(segment.p_offset));
    if (!file.read(notes.data(), static_cast<std::streamsize>(notes.size()))) break;
    if (std::string id = build_id_in(notes.data(), notes.size()); !id.empty()) return id;
  }
  return content_identity(file);
}

std::string builtins_identity(const std::string& libnvrtc) {
  const std::vector<std::string> found =
      entries(fs::path(libnvrtc).parent_path(), "libnvrtc-builtins.so");
  return found.empty() ? "none" : file_identity(found.front());
}

// ---- compile ----

constexpr std::size_t kMaxLogBytes = 64 << 10;

// Adds one "<number> bytes <what>" of the resource report.
int report_value(const std::string& log, const char* pattern) {
  std::smatch match;
  return std::regex_search(log, match, std::regex(pattern)) ? std::stoi(match[1]) : 0;
}

Resources parse_resources(const std::string& log) {
  Resources r;
  r.registers = report_value(log, "Used ([0-9]{1,4}) registers");
  r.spill_store_bytes = report_value(log, "([0-9]{1,7}) bytes spill stores");
  r.spill_load_bytes = report_value(log, "([0-9]{1,7}) bytes spill loads");
  r.stack_bytes = report_value(log, "([0-9]{1,7}) bytes stack frame");
  r.static_smem_bytes = report_value(log, "([0-9]{1,7}) bytes smem");
  return r;
}

class NvrtcCompiler final : public Compiler {
 public:
  explicit NvrtcCompiler(Opened opened) : opened_(std::move(opened)) {
    const NvrtcLocation& at = opened_.location;
    fingerprint_ = fmt::format("nvrtc {}.{} libnvrtc={} builtins={}", at.major, at.minor,
                               file_identity(at.path), builtins_identity(at.path));
    for (const TemplateFile& file : template_files()) {
      header_names_.emplace_back(file.name);
      header_texts_.emplace_back(file.text);
    }
  }

  // The library stays open: NVRTC keeps threads and thread-local state that outlive a dlclose.

  CompiledKernel compile(const Source& source) override {
    const auto start = std::chrono::steady_clock::now();
    std::vector<const char*> names, texts, options;
    for (std::size_t i = 0; i < header_names_.size(); ++i) {
      names.push_back(header_names_[i].c_str());
      texts.push_back(header_texts_[i].c_str());
    }
    const std::vector<std::string> option_texts = this->options(source.arch);
    for (const std::string& option : option_texts) options.push_back(option.c_str());

    NvrtcProgram program = nullptr;
    const NvrtcFunctions& f = opened_.functions;
    if (const NvrtcResult r = f.create(&program, source.text.c_str(), source.program_name.c_str(),
                                       static_cast<int>(names.size()), texts.data(), names.data());
        r != 0)
      throw failure(source, "nvrtcCreateProgram", r, "");
    const std::unique_ptr<void, ProgramDeleter> owner(program, ProgramDeleter{f.destroy});
    const NvrtcResult result = f.compile(program, static_cast<int>(options.size()), options.data());
    CompiledKernel kernel;
    kernel.log = read_log(program);
    if (result != 0) throw failure(source, "nvrtcCompileProgram", result, kernel.log);
    kernel.cubin = read_cubin(program, source, kernel.log);
    kernel.resources = parse_resources(kernel.log);
    if (kernel.resources.registers == 0)
      throw Error(Status::kCompileFailed,
                  fmt::format("{}: NVRTC {}.{} ({}) gave no resource report, so spills cannot be "
                              "ruled out; its log: {}",
                              source.program_name, opened_.location.major, opened_.location.minor,
                              opened_.location.path, kernel.log));
    kernel.compile_ms =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    return kernel;
  }

  std::string fingerprint() const override { return fingerprint_; }

  // The resource report comes back in the log. Since 12.9 NVRTC knows two more options that matter:
  // the fixed seed names internal symbols, which would otherwise differ from process to process
  // (earlier versions gave equal bytes without it), and its own compile cache is switched off: it
  // answers from disk without a report, and Kiln's cache is the one that is verified.
  std::vector<std::string> options(Arch arch) const override {
    std::vector<std::string> list{"--gpu-architecture=" + name(arch), "--std=c++17",
                                  "--device-as-default-execution-space", "--no-source-include",
                                  "--ptxas-options=--verbose"};
    const NvrtcLocation& at = opened_.location;
    if (at.major > 12 || at.minor >= 9)
      list.insert(list.end(), {"-frandom-seed=kiln", "--no-cache"});
    return list;
  }

 private:
  struct ProgramDeleter {
    NvrtcResult (*destroy)(NvrtcProgram*);
    void operator()(void* program) const { destroy(&program); }
  };

  Error failure(const Source& source, const char* call, NvrtcResult result,
                const std::string& log) const {
    std::string options;
    for (const std::string& option : this->options(source.arch)) options += " " + option;
    return Error(Status::kCompileFailed,
                 fmt::format("{}: {} failed: {} (NVRTC {}.{}, {}; options:{}){}{}",
                             source.program_name, call, opened_.functions.error_string(result),
                             opened_.location.major, opened_.location.minor, opened_.location.path,
                             options, log.empty() ? "" : "\n", log));
  }

  std::string read_log(NvrtcProgram program) const {
    std::size_t size = 0;
    if (opened_.functions.log_size(program, &size) != 0 || size <= 1) return {};
    std::string log(size, '\0');
    if (opened_.functions.log(program, log.data()) != 0) return {};
    log.resize(std::min(std::strlen(log.c_str()), kMaxLogBytes));
    return log;
  }

  // After some failures NVRTC reports success with an empty image, so the image itself is checked.
  std::vector<std::byte> read_cubin(NvrtcProgram program, const Source& source,
                                    const std::string& log) const {
    std::size_t size = 0;
    if (const NvrtcResult r = opened_.functions.cubin_size(program, &size); r != 0)
      throw failure(source, "nvrtcGetCUBINSize", r, log);
    std::vector<std::byte> cubin(size);
    if (size > 0)
      if (const NvrtcResult r =
              opened_.functions.cubin(program, reinterpret_cast<char*>(cubin.data()));
          r != 0)
        throw failure(source, "nvrtcGetCUBIN", r, log);
    const std::string_view bytes(reinterpret_cast<const char*>(cubin.data()), cubin.size());
    if (!bytes.starts_with("\177ELF") || bytes.find(source.entry) == std::string_view::npos)
      throw Error(
          Status::kCompileFailed,
          fmt::format("{}: NVRTC reported success but gave {} bytes that are no ELF image of {}",
                      source.program_name, cubin.size(), source.entry));
    return cubin;
  }

  Opened opened_;
  std::string fingerprint_;
  std::vector<std::string> header_names_, header_texts_;
};

}  // namespace

NvrtcLocation locate_nvrtc(const NvrtcSearch& search) { return open_first(search).location; }

std::unique_ptr<Compiler> open_nvrtc(const NvrtcSearch& search) {
  Opened opened = open_first(search);
  if (opened.library == nullptr) {
    std::string message = "NVRTC (libnvrtc.so, 12.4 to 13.x) was not found; tried:";
    for (const std::string& place : opened.location.tried) message += "\n  " + place;
    message +=
        "\ninstall the CUDA toolkit or the PyPI package nvidia-cuda-nvrtc, or give its path "
        "(KILN_NVRTC, --nvrtc, nvrtc_path)";
    throw Error(Status::kNoCompiler, message);
  }
  return std::make_unique<NvrtcCompiler>(std::move(opened));
}

}  // namespace kiln::jit
