package store

import (
	clientv3 "go.etcd.io/etcd/client/v3"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

func cmps(in []Cmp) []clientv3.Cmp {
	out := make([]clientv3.Cmp, len(in))
	for i, c := range in {
		target := clientv3.CreateRevision(c.Key)
		if c.Field == FieldMod {
			target = clientv3.ModRevision(c.Key)
		}
		out[i] = clientv3.Compare(target, "=", c.Rev)
		if c.AtLeast {
			out[i] = clientv3.Compare(target, ">", c.Rev-1)
		}
		if c.End != "" {
			out[i] = out[i].WithRange(c.End)
		}
	}
	return out
}

func ops(in []Op) []clientv3.Op {
	out := make([]clientv3.Op, len(in))
	for i, op := range in {
		var opts []clientv3.OpOption
		if op.Range.End != "" {
			opts = append(opts, clientv3.WithRange(op.Range.End))
		}
		switch op.Kind {
		case OpGet:
			out[i] = clientv3.OpGet(op.Range.Key, opts...)
		case OpPut:
			out[i] = clientv3.OpPut(op.Range.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		case OpDelete:
			out[i] = clientv3.OpDelete(op.Range.Key, opts...)
		case OpTxn:
			out[i] = clientv3.OpTxn(cmps(op.Txn.If), ops(op.Txn.Then), ops(op.Txn.Else))
		}
	}
	return out
}

func keyValue(kv *mvccpb.KeyValue) KeyValue {
	return KeyValue{
		Key:            string(kv.Key),
		Value:          kv.Value,
		CreateRevision: kv.CreateRevision,
		ModRevision:    kv.ModRevision,
		Lease:          LeaseID(kv.Lease),
	}
}

// result reads a response; nested ones bear no revision of their own.
func result(resp *clientv3.TxnResponse, rev int64, cluster uint64) Result {
	res := Result{OK: resp.Succeeded, Revision: rev, ClusterID: cluster}
	for _, r := range resp.Responses {
		var out Response
		switch {
		case r.GetResponseRange() != nil:
			for _, kv := range r.GetResponseRange().Kvs {
				out.KVs = append(out.KVs, keyValue(kv))
			}
		case r.GetResponseDeleteRange() != nil:
			out.Deleted = r.GetResponseDeleteRange().Deleted
		case r.GetResponseTxn() != nil:
			inner := result((*clientv3.TxnResponse)(r.GetResponseTxn()), rev, cluster)
			out.Result = &inner
		}
		res.Responses = append(res.Responses, out)
	}
	return res
}
