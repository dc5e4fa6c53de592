// BackgroundBuilds: builds kernels in threads of its own while the callers go on.
//
// A bounded queue; each kernel is in it once. Knows neither keys nor the driver: what "building"
// is, it is told. Thread-safe. No lock is held while a kernel is built or the log is written.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "jit/error.h"
#include "jit/source.h"
#include "runtime/log.h"

namespace kiln::runtime {

inline constexpr std::int32_t kMaxBackgroundJobs = 64;
inline constexpr std::size_t kMaxQueuedBuilds = 256;

class BackgroundBuilds {
 public:
  // Throws Error when the kernel cannot be built; called from several threads at once.
  using Build = std::function<void(const jit::KernelSpec& spec, std::string_view why)>;

  // `log` must outlive this. No thread is started before there is work.
  BackgroundBuilds(std::int32_t jobs, Build build, const Log& log);
  ~BackgroundBuilds();  // as cancel(), then waits for the builds that have begun
  BackgroundBuilds(const BackgroundBuilds&) = delete;
  BackgroundBuilds& operator=(const BackgroundBuilds&) = delete;

  enum class Answer : std::uint8_t {
    kQueued,   // now, or by an earlier call; it may be in progress
    kFull,     // the queue is; ask again later
    kFailed,   // it was built and failed, and is not tried again here: `failure` says why
    kStopped,  // cancelled, or no thread could be started
  };
  struct Failure {  // not an Error: threads would share its text's reference count
    Status status = Status::kOk;
    std::string message;
  };
  struct Reply {
    Answer answer = Answer::kStopped;
    Failure failure;  // of kFailed
  };
  // Waits for nothing but the queue's mutex; asks the driver nothing.
  Reply request(const jit::KernelSpec& spec, std::string_view why);

  // Forgets what has not begun, and takes no more. What has begun goes on.
  void cancel();

  struct Counts {
    std::uint64_t pending = 0;  // queued or in progress, now
    std::uint64_t built = 0, failed = 0, refused = 0;
  };
  Counts counts() const;

 private:
  struct Request {
    jit::KernelSpec spec;
    std::string why;
  };

  void start_thread_if_useful();  // with the lock held
  void work();
  void build(const Request& request);

  const std::int32_t jobs_;
  const Build build_;
  const Log& log_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  bool stopped_ = false;
  std::int32_t idle_ = 0;
  std::deque<Request> queue_;
  std::set<jit::KernelSpec> pending_;            // queued or in progress
  std::map<jit::KernelSpec, Failure> failures_;  // of builds that ended so
  Counts counts_;
  std::vector<std::thread> threads_;
};

}  // namespace kiln::runtime
