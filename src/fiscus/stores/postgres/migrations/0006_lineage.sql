-- Usage by where it came from: few rows where callers say nothing of it.

-- name: usage_request
CREATE INDEX usage_request ON fiscus.usage (tenant, coalesce(fiscus.document(record) #>> '{provenance,request_id}', hold))
WHERE position('\x2270726f76656e616e6365223a'::bytea IN record) > 0;

-- name: usage_parent
CREATE INDEX usage_parent ON fiscus.usage (tenant, (fiscus.document(record) #>> '{provenance,parent_request_id}'))
WHERE position('\x22706172656e745f726571756573745f6964223a'::bytea IN record) > 0;

-- name: usage_workflow
CREATE INDEX usage_workflow ON fiscus.usage (tenant, (fiscus.document(record) #>> '{provenance,workflow_id}'))
WHERE position('\x22776f726b666c6f775f6964223a'::bytea IN record) > 0;
