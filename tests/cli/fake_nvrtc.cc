// An NVRTC that misbehaves on request, for the tests of the `kiln` command: given as KILN_NVRTC, it
// stands in for the library of that name. Its images are those of the fake compiler (fake_cubin.h),
// which the fake driver loads.
//
//   FAKE_NVRTC_LOG=FILE     one line per compile: the process and the program's name
//   FAKE_NVRTC_CRASH=TEXT   a program whose name contains TEXT ends the process by SIGSEGV
//   FAKE_NVRTC_HANG=TEXT    ... never finishes (a file FAKE_NVRTC_LOG + ".hanging" says that it
//   began) FAKE_NVRTC_FAIL=TEXT    ... is refused, with a log FAKE_NVRTC_EXIT=TEXT    ... ends the
//   process with exit code 7 FAKE_NVRTC_VERSION=X.Y  the version it claims to be (default 13.0)
//   FAKE_NVRTC_OTHER=TEXT   ... becomes an image with other bytes, though nothing of its key
//   changed
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "templates/params.cuh"
#include "tests/support/fake_cubin.h"

namespace {

struct Program {
  std::string name;  // "ENTRY.cu"
  std::string text;
  std::string log;
  std::string image;
};

bool asked(const char* variable, const std::string& name) {
  const char* text = std::getenv(variable);
  return text != nullptr && name.find(text) != std::string::npos;
}

// One write() with O_APPEND, so that the lines of several processes stay whole.
void append_line(const std::string& path, const std::string& line) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (::write(fd, line.data(), line.size()) < 0) std::abort();
  ::close(fd);
}

void note(const std::string& name, const char* suffix) {
  const char* path = std::getenv("FAKE_NVRTC_LOG");
  if (path != nullptr)
    append_line(path + std::string(suffix), std::to_string(::getpid()) + " " + name + "\n");
}

int number_after(const std::string& text, const char* word) {
  const std::size_t at = text.find(word);
  return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + std::strlen(word));
}

int param_bytes(const std::string& text) {
  namespace device = kiln::device;
  const auto takes = [&](const char* type) {
    return text.find(std::string("__grid_constant__ ") + type) != std::string::npos;
  };
  if (takes("GemmParams")) return sizeof(device::GemmParams);
  if (takes("PackedGemmParams")) return sizeof(device::PackedGemmParams);
  if (takes("QuantizeParams")) return sizeof(device::QuantizeParams);
  if (takes("FillParams")) return sizeof(device::FillParams);
  return sizeof(device::ReferenceParams);
}

}  // namespace

extern "C" {

int nvrtcVersion(int* major, int* minor) {
  const char* text = std::getenv("FAKE_NVRTC_VERSION");
  *major = 13;
  *minor = 0;
  return text == nullptr || std::sscanf(text, "%d.%d", major, minor) == 2 ? 0 : 1;
}

int nvrtcCreateProgram(Program** program, const char* text, const char* name, int,
                       const char* const*, const char* const*) {
  *program = new Program{name, text, "", ""};
  return 0;
}

int nvrtcDestroyProgram(Program** program) {
  delete *program;
  *program = nullptr;
  return 0;
}

int nvrtcCompileProgram(Program* program, int, const char* const*) {
  note(program->name, "");
  if (asked("FAKE_NVRTC_CRASH", program->name)) {
    ::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would turn it into an exit code
    ::raise(SIGSEGV);
  }
  if (asked("FAKE_NVRTC_EXIT", program->name)) ::_exit(7);
  if (asked("FAKE_NVRTC_HANG", program->name)) {
    note(program->name, ".hanging");
    for (;;) ::pause();
  }
  if (asked("FAKE_NVRTC_FAIL", program->name)) {
    program->log = program->name + "(1): error: refused on request\n";
    return 6;
  }
  const kiln::test::FakeCubin cubin{program->name.substr(0, program->name.rfind('.')), 168, 64,
                                    param_bytes(program->text),
                                    number_after(program->text, "__launch_bounds__(")};
  program->image = kiln::test::write_fake_cubin(cubin) + '\0';
  if (asked("FAKE_NVRTC_OTHER", program->name)) program->image += '\0';
  program->log =
      "ptxas info    : Used 168 registers, 64 bytes smem, 0 bytes stack frame, 0 bytes spill "
      "stores, 0 bytes "
      "spill loads\n";
  return 0;
}

int nvrtcGetCUBINSize(Program* program, std::size_t* size) {
  *size = program->image.size();
  return 0;
}

int nvrtcGetCUBIN(Program* program, char* image) {
  std::memcpy(image, program->image.data(), program->image.size());
  return 0;
}

int nvrtcGetProgramLogSize(Program* program, std::size_t* size) {
  *size = program->log.size() + 1;
  return 0;
}

int nvrtcGetProgramLog(Program* program, char* log) {
  std::memcpy(log, program->log.c_str(), program->log.size() + 1);
  return 0;
}

const char* nvrtcGetErrorString(int result) {
  return result == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_OTHER";
}

}  // extern "C"
