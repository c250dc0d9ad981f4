module lastcall/cluster/tools

go 1.24.0
