package main

import (
	"github.com/spf13/pflag"

	overspanv1 "github.com/overspan/overspan/proto/overspan/v1"
)

// A publication is which ports of a container are to be published at this host.
type publication struct {
	publish []string
	all     bool
	expose  []string
}

// flags adds docker's flags for it.
func (p *publication) flags(f *pflag.FlagSet) {
	f.StringArrayVarP(&p.publish, "publish", "p", nil, "publish a port at this host, [ip:][host[-range]:]container[-range][/tcp|udp|sctp]; may be repeated")
	f.BoolVarP(&p.all, "publish-all", "P", false, "publish all exposed ports, at host ports that are drawn")
	f.StringArrayVar(&p.expose, "expose", nil, "port of the container, container[-range][/tcp|udp|sctp], for --publish-all; may be repeated")
}

// some reports whether anything is to be published.
func (p publication) some() bool { return p.all || len(p.publish) > 0 }

// into puts it into a request.
func (p publication) into(req *overspanv1.ConnectRequest) {
	req.Publish, req.PublishAll, req.Expose = p.publish, p.all, p.expose
}
