-- For wrk: one POST after the other on each connection, every answer compared, the sums as JSON.
wrk.method = "POST"
wrk.body = string.rep("HTTP/1.1 200 OK\r\n", 4)

local threads = {}
wrong = 0

function setup(thread)
  table.insert(threads, thread)
end

function response(status, headers, body)
  if body ~= wrk.body then
    wrong = wrong + 1
  end
end

function done(summary)
  local differing, errors = 0, summary.errors
  for _, thread in ipairs(threads) do
    differing = differing + thread:get("wrong")
  end
  local failed = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  io.write(string.format(
    '{"requests":%d,"failed":%d,"wrong":%d,"errors":["connect %d, read %d, write %d, timeout %d, status %d"]}\n',
    summary.requests + failed, failed + differing, differing,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
