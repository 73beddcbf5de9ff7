# Answers what Xen knows of a domain to the nanosecond, where xl rounds, and starts
# a domain's processors at a moment that it tells.
import sys
import time

sys.path.append("/usr/lib/xen-4.20/lib/python")
import xen.lowlevel.xc

xc = xen.lowlevel.xc.xc()
print("listening", flush=True)
for line in sys.stdin:
    what, domain = line.split()
    if what == "unpause":
        answer = time.time_ns() // 1000
        xc.domain_unpause(int(domain))
    else:
        answer = xc.domain_getinfo(int(domain), 1)[0]["cpu_time"]
    print("answer", answer, flush=True)
