#include "runtime/background.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <system_error>

namespace kiln::runtime {
namespace {

// Signals of the process are handled by its own threads.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

BackgroundBuilds::BackgroundBuilds(std::int32_t jobs, Build build, const Log& log)
    : jobs_(jobs), build_(std::move(build)), log_(log) {}

BackgroundBuilds::~BackgroundBuilds() {
  cancel();
  for (std::thread& thread : threads_) thread.join();  // nobody adds to them any more
}

BackgroundBuilds::Reply BackgroundBuilds::request(const jit::KernelSpec& spec,
                                                  std::string_view why) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return {Answer::kStopped, {}};
  if (const auto failure = failures_.find(spec); failure != failures_.end())
    return {Answer::kFailed, failure->second};
  if (pending_.contains(spec)) return {Answer::kQueued, {}};
  if (queue_.size() >= kMaxQueuedBuilds) {
    ++counts_.refused;
    return {Answer::kFull, {}};
  }
  start_thread_if_useful();
  if (threads_.empty()) return {Answer::kStopped, {}};
  queue_.push_back({spec, std::string(why)});
  pending_.insert(spec);
  wake_.notify_one();
  return {Answer::kQueued, {}};
}

// One thread more while there is work for it. A system that gives none leaves those that are there.
void BackgroundBuilds::start_thread_if_useful() {
  const bool all_busy = static_cast<std::size_t>(idle_) <= queue_.size();
  if (!all_busy || threads_.size() >= static_cast<std::size_t>(jobs_)) return;
  const SignalsBlocked blocked;
  threads_.reserve(static_cast<std::size_t>(jobs_));
  try {
    threads_.emplace_back([this] { work(); });
  } catch (const std::system_error&) {
  }
}

void BackgroundBuilds::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++idle_;
    wake_.wait(lock, [this] { return stopped_ || !queue_.empty(); });
    --idle_;
    if (stopped_) return;
    const Request request = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    build(request);
    lock.lock();
  }
}

void BackgroundBuilds::build(const Request& request) {
  std::optional<Failure> failure;
  try {
    build_(request.spec, request.why);
  } catch (const Error& error) {
    failure = Failure{error.status(), error.what()};
  } catch (const std::exception& error) {
    failure = Failure{Status::kInternal, error.what()};
  }
  if (failure) {
    log_.write(LogLevel::kWarning,
               fmt::format("a kernel was not built in the background: {}", failure->message));
  }
  const std::lock_guard lock(mutex_);
  ++(failure ? counts_.failed : counts_.built);
  pending_.erase(request.spec);
  if (failure) failures_.emplace(request.spec, *failure);
}

void BackgroundBuilds::cancel() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  for (const Request& request : queue_) pending_.erase(request.spec);
  queue_.clear();
  wake_.notify_all();
}

BackgroundBuilds::Counts BackgroundBuilds::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts = counts_;
  counts.pending = pending_.size();
  return counts;
}

}  // namespace kiln::runtime
