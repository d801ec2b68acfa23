-- wrk's script: GET of the second argument. Requests take the sessions of the file in turn: of many more sessions than connections, no two requests
-- in flight have the same one, as if each connection were a visitor of its own.

local requests, last = {}, 0

function init(arguments)
  for cookie in io.lines(arguments[1]) do
    requests[#requests + 1] = wrk.format("GET", arguments[2], { Cookie = cookie })
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary, latency)
  local failed = summary.errors
  print(string.format(
    '{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "errors": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    failed.connect + failed.read + failed.write + failed.status + failed.timeout
  ))
end
